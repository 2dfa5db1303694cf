import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { rmSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { commandLine, runCommand, startCommand } from "../support/agent_command.ts";
import { makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { childExit, eachLine } from "../support/child.ts";
import { EventLog, until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import {
  descendants,
  isAlive,
  killAndConfirm,
  processesWithLockIn,
  readArgv,
  signalPid,
} from "../support/processes.ts";
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

test("what run has lost while no agent ran is told when it resumes", async () => {
  await using made = await makeAgentDirs();
  const first = await startAgent({ dirs: made.dirs });
  await using run = startCommand(made.dirs, ["run", "x", ...STAY]);
  await run.out.waitFor((line) => line === "up");
  await first.kill();
  unlinkSync(lockPath(made.dirs.lockDir, "x"));
  await using second = await startAgent({ dirs: made.dirs });
  await second.events.waitFor(({ event }) => event === "session-resumed");
  const { code, stderr } = await run.end;
  assert.equal(code, 93);
  assert.match(stderr, /Lost lock "x": lock file .* was removed or replaced; /);
});

test("run waits for the next agent for as long as the last one told", async () => {
  await using made = await makeAgentDirs();
  const config = join(made.dirs.runtimeDir, "agent.json");
  writeFileSync(config, JSON.stringify({ heartbeatMs: 50, giveUpMs: 200, silenceMs: 300 }));
  await using agent = await startAgent({ dirs: made.dirs, args: ["--config", config] });
  await using run = startCommand(made.dirs, ["run", "x", ...STAY]);
  await run.out.waitFor((line) => line === "up");
  await agent.kill();
  const { code, stderr } = await run.end;
  assert.equal(code, 93);
  assert.match(stderr, /Lost lock "x": .* no agent was there again within 300 ms; ending/);
});

test("run loses its lock when the next agent knows nothing of it", async () => {
  await using made = await makeAgentDirs();
  const first = await startAgent({ dirs: made.dirs });
  await using run = startCommand(made.dirs, ["run", "x", ...STAY]);
  await run.out.waitFor((line) => line === "up");
  await first.kill();
  rmSync(`${made.dirs.runtimeDir}/locks`, { recursive: true });
  // Its holder keeps a copy of the record as its standard input.
  for (const pid of processesWithLockIn(made.dirs.lockDir)) truncateSync(`/proc/${pid}/fd/0`);
  await using _second = await startAgent({ dirs: made.dirs });
  const { code, stderr } = await run.end;
  assert.equal(code, 93);
  assert.match(
    stderr,
    /Lost lock "x": .*Cannot resume the session: it has ended; ending the command/,
  );
});

for (const withAgent of [true, false]) {
  const how = withAgent ? "agent" : "no agent";

  test(`what the command left in the background ends with the lock as well (${how})`, async () => {
    await using made = await makeAgentDirs();
    await using _agent = withAgent ? await startAgent({ dirs: made.dirs }) : undefined;
    const away = "setsid sleep 1000 & echo $!; sleep 1000 & echo $!; echo up; exec cat";
    await using run = startCommand(made.dirs, ["run", "x", "sh", "-c", away]);
    await run.out.waitFor((line) => line === "up");
    const left = run.out.all.filter((line) => line !== "up").map(Number);
    assert.equal(left.length, 2);
    unlinkSync(lockPath(made.dirs.lockDir, "x"));
    assert.equal((await run.end).code, 93);
    assert.deepEqual(left.filter(isAlive), [], "93 says that nothing is left");
  });

  test(`a loss ends no neighbour of run in its process group (${how})`, async () => {
    await using made = await makeAgentDirs();
    await using _agent = withAgent ? await startAgent({ dirs: made.dirs }) : undefined;
    const command = commandLine(made.dirs, ["run", "x", ...STAY]);
    const script = 'sleep 1000 & neighbour=$!; "$@"; echo code=$?; kill -0 $neighbour && ' +
      "echo neighbour lives; kill $neighbour";
    const child = spawn("sh", ["-c", script, "sh", ...command], { stdio: "pipe" });
    const exit = childExit(child);
    const out = new EventLog<string>();
    eachLine(child.stdout, (line) => out.push(line));
    await out.waitFor((line) => line === "up");
    unlinkSync(lockPath(made.dirs.lockDir, "x"));
    await out.waitFor((line) => line === "code=93");
    await out.waitFor((line) => line === "neighbour lives");
    await exit;
  });

  test(`a run that is killed leaves the lock to its command until that is gone (${how})`, async () => {
    await using made = await makeAgentDirs();
    await using _agent = withAgent ? await startAgent({ dirs: made.dirs }) : undefined;
    // It survives TERM, so it is there for as long as the grace lasts.
    const stubborn = "trap '' TERM; echo $$; setsid sh -c 'echo $$; exec sleep 1000' & " +
      "while :; do sleep 0.1; done";
    await using run = startCommand(made.dirs, ["run", "x", "sh", "-c", stubborn]);
    await run.out.waitFor(() => run.out.all.length >= 2);
    const command = run.out.all.map(Number);
    const [holderPid] = processesWithLockIn(made.dirs.lockDir);
    signalPid(run.pid, "SIGKILL");
    const path = lockPath(made.dirs.lockDir, "x");
    let refusals = 0;
    const free = await until(async () => {
      const outcome = await flock(path);
      const left = command.filter(isAlive);
      if (outcome.kind === "held") {
        assert.deepEqual(left, [], "nobody gets the lock beside the command");
        return outcome.holder;
      }
      refusals++;
      return undefined;
    }, { what: "a free lock", deadlineMs: 60_000, intervalMs: 20 });
    await free.end();
    assert.ok(refusals > 0, "it was refused meanwhile");
    await until(() => !isAlive(holderPid!), { what: "the end of the holder" });
  });
}

test("a keeper that is killed is replaced, and so is a killed holder's tie to it", async () => {
  await using made = await makeAgentDirs();
  await using run = startCommand(made.dirs, ["run", "x", ...STAY]);
  await run.out.waitFor((line) => line === "up");
  const keeper = () => descendants(run.pid).find(({ pid }) => readArgv(pid).includes("keep"))?.pid;
  const first = await until(keeper, { what: "a keeper" });
  await killAndConfirm(first);
  const second = await until(() => keeper() !== first && keeper(), { what: "another keeper" });
  const [holderPid] = processesWithLockIn(made.dirs.lockDir);
  signalPid(holderPid!, "SIGKILL");
  await until(() => keeper() !== second && keeper(), { what: "a keeper of the next holder" });
  const [command] = descendants(run.pid).filter(({ comm }) => comm === "cat");
  signalPid(run.pid, "SIGSTOP");
  signalPid(run.pid, "SIGKILL");
  const free = await until(async () => {
    const outcome = await flock(lockPath(made.dirs.lockDir, "x"));
    if (outcome.kind !== "held") return undefined;
    assert.equal(isAlive(command!.pid), false, "the command is gone first");
    return outcome.holder;
  }, { what: "a free lock", deadlineMs: 60_000, intervalMs: 20 });
  await free.end();
});

test("keep by hand says who starts it", async () => {
  await using made = await makeAgentDirs();
  const { code, stderr } = await runCommand(made.dirs, ["keep"]);
  assert.equal(code, 125);
  assert.match(stderr, /Cannot keep a lock: only sshlock-agent run starts this/);
});

test("who asks for the lock is said, with what becomes of the command", async () => {
  await using agent = await startAgent();
  const { dirs } = agent;
  await using run = startCommand(dirs, ["run", "--owner", "me", "x", ...STAY]);
  await run.out.waitFor((line) => line === "up");
  const asking = ["--owner", "you", "--takeover", "hotfix 7", "--takeover-deadline", "1s"];
  await using taker = startCommand(dirs, ["run", ...asking, "x", "echo", "mine"]);
  const asked = await run.err.waitFor(() => true);
  assert.match(
    asked,
    /^sshlock-agent: Asked for "x" by you \(.+\): hotfix 7; the command is ended in 1 s$/,
  );
  const { code, stderr } = await run.end;
  assert.equal(code, 93);
  assert.match(stderr, /Lost lock "x": taken over by you \(.+\): hotfix 7; ending the command\n$/);
  const end = await taker.end;
  assert.deepEqual([end.code, end.stdout, end.stderr], [0, "mine\n", ""]);
});

test("a command that is broken gets TERM once", async () => {
  await using agent = await startAgent();
  const script = "trap 'echo term' TERM; echo up; while read -r line || [ $? -gt 128 ]; do :; done";
  await using run = startCommand(agent.dirs, ["run", "x", "bash", "-c", script]);
  await run.out.waitFor((line) => line === "up");
  assert.equal((await runCommand(agent.dirs, ["break", "x", "--why", "test"])).code, 0);
  await run.out.waitFor((line) => line === "term");
  run.child.stdin?.end();
  assert.equal((await run.end).code, 93);
  assert.deepEqual(run.out.all, ["up", "term"]);
});

test("run without a holder's file says so and exits 125", async () => {
  await using made = await makeAgentDirs();
  const holder = join(made.dirs.runtimeDir, "no-holder");
  const { code, stderr } = await runCommand(made.dirs, ["run", "x", "true"], { holder });
  assert.equal(code, 125);
  assert.match(stderr, /holder/);
});
