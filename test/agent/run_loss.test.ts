import assert from "node:assert/strict";
import { rmSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runCommand, startCommand } from "../support/agent_command.ts";
import { makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { descendants, isAlive, processesWithLockIn, signalPid } from "../support/processes.ts";
import { lockPath } from "../support/shell_lock.ts";

// Each ends with its standard input too, so that a failed test leaves nothing behind.
const STAY = ["sh", "-c", "echo up; exec cat"];
const STUBBORN = ["sh", "-c", "trap '' TERM; echo up; exec cat"];

for (const withAgent of [true, false]) {
  const how = withAgent ? "agent" : "no agent";

  test(`a lock that is lost ends the command, and run exits 93 (${how})`, async () => {
    await using made = await makeAgentDirs();
    await using agent = withAgent ? await startAgent({ dirs: made.dirs }) : undefined;
    await using run = startCommand(made.dirs, ["run", "x", ...STAY]);
    await run.out.waitFor((line) => line === "up");
    unlinkSync(lockPath(made.dirs.lockDir, "x"));
    const { code, stderr } = await run.end;
    assert.equal(code, 93);
    assert.match(stderr, /^sshlock-agent: Lost lock "x": lock file .* was removed or replaced; /);
    assert.equal(
      agent?.events.all.some(({ event }) => event === "lock-lost"),
      withAgent || undefined,
    );
  });

  test(`where the lock folder is missing run exits 92 and says why (${how})`, async () => {
    await using made = await makeAgentDirs();
    await using _agent = withAgent ? await startAgent({ dirs: made.dirs }) : undefined;
    rmSync(made.dirs.lockDir, { recursive: true });
    const { code, stderr } = await runCommand(made.dirs, ["run", "x", "true"]);
    assert.equal(code, 92);
    assert.match(stderr, /^sshlock-agent: Cannot (create|use) lock file .*: /);
  });
}

test("a command that ignores TERM after a loss is killed", async () => {
  await using made = await makeAgentDirs();
  await using run = startCommand(made.dirs, ["run", "x", ...STUBBORN]);
  await run.out.waitFor((line) => line === "up");
  unlinkSync(lockPath(made.dirs.lockDir, "x"));
  assert.equal((await run.end).code, 93);
});

test("run outlives the agent's end and resumes with the next", async () => {
  await using made = await makeAgentDirs();
  const first = await startAgent({ dirs: made.dirs });
  await using run = startCommand(made.dirs, ["run", "x", ...STAY]);
  await run.out.waitFor((line) => line === "up");
  await first.kill();
  await using second = await startAgent({ dirs: made.dirs });
  await second.events.waitFor(({ event }) => event === "session-resumed");
  run.child.stdin?.end();
  assert.equal((await run.end).code, 0);
  const ended = await second.events.waitFor(({ event }) => event === "lock-ended");
  assert.equal(ended.how, "released");
});

test("run loses its lock when the next agent knows nothing of it", async () => {
  await using made = await makeAgentDirs();
  const first = await startAgent({ dirs: made.dirs });
  await using run = startCommand(made.dirs, ["run", "x", ...STAY]);
  await run.out.waitFor((line) => line === "up");
  await first.kill();
  rmSync(`${made.dirs.runtimeDir}/locks`, { recursive: true });
  await using _second = await startAgent({ dirs: made.dirs });
  const { code, stderr } = await run.end;
  assert.equal(code, 93);
  assert.match(
    stderr,
    /Lost lock "x": .*Cannot resume the session: it has ended; ending the command/,
  );
});

test("a run that is killed without an agent frees the lock and leaves no holder", async () => {
  await using made = await makeAgentDirs();
  await using run = startCommand(made.dirs, ["run", "x", ...STAY]);
  await run.out.waitFor((line) => line === "up");
  const left = descendants(run.pid).map(({ pid }) => pid);
  const [holderPid] = processesWithLockIn(made.dirs.lockDir);
  assert.ok(left.includes(holderPid!));
  signalPid(run.pid, "SIGKILL");
  await until(() => !isAlive(holderPid!), { what: "the end of the holder" });
  const free = await until(async () => {
    const outcome = await flock(lockPath(made.dirs.lockDir, "x"));
    return outcome.kind === "held" && outcome.holder;
  });
  await free.end();
  for (const pid of left) signalPid(pid, "SIGKILL");
});

test("a run that is killed while its agent lives frees the lock", async () => {
  await using agent = await startAgent();
  await using run = startCommand(agent.dirs, ["run", "x", ...STAY]);
  await run.out.waitFor((line) => line === "up");
  const left = descendants(run.pid).map(({ pid }) => pid);
  signalPid(run.pid, "SIGKILL");
  await agent.events.waitFor(({ event }) => event === "lock-ended");
  for (const pid of left) signalPid(pid, "SIGKILL");
});

test("run without a holder's file says so and exits 125", async () => {
  await using made = await makeAgentDirs();
  const holder = join(made.dirs.runtimeDir, "no-holder");
  const { code, stderr } = await runCommand(made.dirs, ["run", "x", "true"], { holder });
  assert.equal(code, 125);
  assert.match(stderr, /holder/);
});
