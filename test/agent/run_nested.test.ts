// run inside run: the same lock is joined, another one is claimed, and nobody waits for themselves.
import assert from "node:assert/strict";
import { unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  commandLine,
  type CommandOptions,
  runCommand,
  startCommand,
} from "../support/agent_command.ts";
import { type AgentDirs, makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { descendants, readArgv, signalPid } from "../support/processes.ts";
import { lockPath } from "../support/shell_lock.ts";

function both(name: string, body: (dirs: AgentDirs) => Promise<void>): void {
  for (const withAgent of [true, false]) {
    test(`${name} (${withAgent ? "agent" : "no agent"})`, async () => {
      await using made = await makeAgentDirs();
      await using _agent = withAgent ? await startAgent({ dirs: made.dirs }) : undefined;
      await body(made.dirs);
    });
  }
}

const PRINT = ["sh", "-c", 'echo "$SSHLOCK_NAME $SSHLOCK_TOKEN $SSHLOCK_OWNER"'];

/** The command line of a run, to be used inside another. */
function inner(dirs: AgentDirs, ...args: string[]): string[] {
  return commandLine(dirs, ["run", ...args]);
}

function run(dirs: AgentDirs, args: string[], options?: CommandOptions) {
  return runCommand(dirs, ["run", ...args], options);
}

/** A command that runs a script; from a file, as Deno rewrites scripts behind `sh -c` that name it. */
function shell(dirs: AgentDirs, script: string): string[] {
  const file = join(dirs.runtimeDir, `script-${scripts++}`);
  writeFileSync(file, script);
  return ["sh", file];
}

let scripts = 0;

/** The words as one of a shell's. */
function quoted(words: string[]): string {
  return words.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");
}

async function isFree(dirs: AgentDirs, name: string): Promise<boolean> {
  const outcome = await flock(lockPath(dirs.lockDir, name));
  if (outcome.kind === "held") await outcome.holder.end();
  return outcome.kind === "held";
}

both("the same lock is joined, three deep, with the same token and owner", async (dirs) => {
  const script = `${quoted(PRINT)}; ${quoted(inner(dirs, "x", ...inner(dirs, "x", ...PRINT)))}`;
  const { code, stdout, stderr } = await run(dirs, [
    "--owner",
    "me & co",
    "x",
    ...shell(dirs, script),
  ]);
  assert.deepEqual([code, stderr], [0, ""]);
  const [outer, innermost] = stdout.trim().split("\n");
  assert.match(outer!, /^x \d+ me & co$/);
  assert.equal(innermost, outer);
  assert.equal(await isFree(dirs, "x"), true);
});

both("under A, B is claimed anew, and A inside it is joined", async (dirs) => {
  const again = inner(dirs, "A", ...PRINT);
  const between = inner(dirs, "B", ...shell(dirs, `${quoted(PRINT)}; ${quoted(again)}`));
  const script = `${quoted(PRINT)}; ${quoted(between)}`;
  const { code, stdout, stderr } = await run(dirs, ["A", ...shell(dirs, script)]);
  assert.deepEqual([code, stderr], [0, ""]);
  const [first, second, third] = stdout.trim().split("\n");
  assert.match(second!, /^B /);
  assert.equal(third, first);
  assert.notEqual(second!.split(" ")[2], first!.split(" ")[2], "B has an owner of its own");
});

both("commands side by side under one lock are rivals for another", async (dirs) => {
  const file = join(dirs.runtimeDir, "held");
  const first = quoted(inner(dirs, "B", "sh", "-c", `echo held >'${file}'; exec sleep 1000`));
  const second = quoted(inner(dirs, "-n", "-E", "7", "B", "true"));
  const script = `${first} & while [ ! -s '${file}' ]; do sleep 0.02; done; ${second}; ` +
    "echo rival=$?; kill $!; wait $!; echo first=$?";
  const { stdout } = await run(dirs, ["A", ...shell(dirs, script)]);
  assert.equal(stdout, "rival=7\nfirst=143\n");
});

both("one that runs on after the outer one has ended keeps the lock", async (dirs) => {
  const stay = inner(dirs, "x", "sh", "-c", "echo up; exec sleep 1000");
  const started = `${quoted(stay)} & echo $!; read -r _`;
  await using outer = startCommand(dirs, ["run", "x", ...shell(dirs, started)]);
  const lines = [await outer.out.waitFor(() => true)];
  await outer.out.waitFor((line) => line === "up");
  const innerPid = Number(lines.concat(outer.out.all).find((line) => /^\d+$/.test(line)));
  outer.child.stdin?.end();
  await until(() => descendants(outer.pid).length === 0 && outer.child.exitCode !== null, {
    what: "the end of the outer run",
  });
  assert.equal(await isFree(dirs, "x"), false, "the inner one has the lock");
  signalPid(innerPid, "SIGTERM");
  await until(() => isFree(dirs, "x"), { what: "a free lock", intervalMs: 20 });
});

both("started under a lock that is gone by then, it refuses", async (dirs) => {
  const print = ["sh", "-c", 'echo "$SSHLOCK_LOCKS"; echo "$SSHLOCK_TOKEN"; echo "$SSHLOCK_OWNER"'];
  const [locks, token, owner] = (await run(dirs, ["x", ...print])).stdout.trim().split("\n");
  const env = {
    SSHLOCK_NAME: "x",
    SSHLOCK_TOKEN: token!,
    SSHLOCK_OWNER: owner!,
    SSHLOCK_LOCKS: locks!,
  };
  const stale = await run(dirs, ["x", "echo", "acted"], { env });
  assert.deepEqual([stale.code, stale.stdout], [93, ""]);
  assert.match(
    stale.stderr,
    /: this command was started under that lock \(token \d+\), which has been lost or released since\nhint: env -u /,
  );
  // Another one under the same name does not make it true again.
  await using other = startCommand(dirs, [
    "run",
    "--owner",
    owner!,
    "x",
    "sh",
    "-c",
    "echo up; cat",
  ]);
  await other.out.waitFor(() => true);
  assert.equal((await run(dirs, ["x", "echo", "acted"], { env })).code, 93);
  const anew = await run(dirs, ["y", "echo", "acted"], { env });
  assert.deepEqual([anew.code, anew.stdout], [0, "acted\n"]);
});

both("after the outer lock was lost it refuses", async (dirs) => {
  const script =
    `trap '' TERM; echo up; read -r _; ${quoted(inner(dirs, "x", "echo", "acted"))}; ` +
    "echo code=$?; exec cat";
  await using outer = startCommand(dirs, ["run", "x", ...shell(dirs, script)]);
  await outer.out.waitFor((line) => line === "up");
  unlinkSync(lockPath(dirs.lockDir, "x"));
  await outer.err.waitFor((line) => line.includes("Lost lock"));
  outer.child.stdin?.write("\n");
  const code = await outer.out.waitFor((line) => line.startsWith("code="));
  assert.ok(["code=93", "code=143"].includes(code), code);
  assert.equal(outer.out.all.includes("acted"), false);
  assert.equal((await outer.end).code, 93);
});

both("what would wait for itself is refused at once", async (dirs) => {
  const exclusive = await run(dirs, ["-s", "x", ...inner(dirs, "x", "true")]);
  assert.equal(exclusive.code, 124);
  assert.match(
    exclusive.stderr,
    /this command runs under that lock as a shared lock, so an exclusive/,
  );
  const named = await run(dirs, ["x", ...inner(dirs, "-E", "9", "--owner", "other", "x", "true")]);
  assert.equal(named.code, 9);
  assert.match(named.stderr, /so other would wait for itself/);
  const shared = await run(dirs, ["x", ...inner(dirs, "-s", "x", "true")]);
  assert.deepEqual(
    [shared.code, shared.stderr],
    [0, ""],
    "an exclusive lock is more than it asked for",
  );
  const env = { SSHLOCK_NAME: "x", SSHLOCK_OWNER: "far" };
  const unknown = await run(dirs, ["x", "true"], { env });
  assert.match(unknown.stderr, /which was claimed over SSH without an agent and cannot be joined/);
});

both("the end of one that joined ends nothing of the other", async (dirs) => {
  const stay = inner(dirs, "x", "sh", "-c", "echo inner; exec sleep 1000");
  const script = `${quoted(stay)} & wait $!; echo ended; cat`;
  await using outer = startCommand(dirs, ["run", "x", ...shell(dirs, script)]);
  await outer.out.waitFor((line) => line === "inner");
  const runs = descendants(outer.pid).filter(({ pid }) => {
    const argv = readArgv(pid);
    return argv.includes("run") && !argv.includes("keep") && argv[0] !== "sh" &&
      argv[0] !== "/bin/sh";
  });
  assert.equal(runs.length, 1);
  signalPid(runs[0]!.pid, "SIGKILL");
  await outer.out.waitFor((line) => line === "ended");
  outer.child.stdin?.write("still here\n");
  await outer.out.waitFor((line) => line === "still here");
  assert.equal(await isFree(dirs, "x"), false);
  outer.child.stdin?.end();
  assert.equal((await outer.end).code, 0);
});

test("one that joined loses the lock with the others", async () => {
  await using agent = await startAgent();
  const { dirs } = agent;
  const stay = inner(dirs, "x", "sh", "-c", "echo inner; exec cat");
  await using outer = startCommand(dirs, ["run", "x", ...stay]);
  await outer.out.waitFor((line) => line === "inner");
  unlinkSync(lockPath(dirs.lockDir, "x"));
  assert.equal((await outer.end).code, 93);
  assert.equal(outer.err.all.filter((line) => line.includes("Lost lock")).length, 2);
});

test("below sshlock run, which sets three variables alone, it joins the SSH session's lock", async () => {
  await using agent = await startAgent();
  const client = await agent.client("respirate/1");
  const { token } = await client.request("claim", { name: "x" }) as { token: number };
  const env = { SSHLOCK_NAME: "x", SSHLOCK_TOKEN: `${token}`, SSHLOCK_OWNER: "respirate/1" };
  const joined = await run(agent.dirs, ["x", ...PRINT], { env });
  assert.deepEqual([joined.code, joined.stdout], [0, `x ${token} respirate/1\n`]);
  const deeper = await run(agent.dirs, ["y", ...inner(agent.dirs, "x", ...PRINT)], { env });
  assert.deepEqual([deeper.code, deeper.stdout], [0, `x ${token} respirate/1\n`]);
  await client.request("release", { name: "x" });
  assert.equal((await run(agent.dirs, ["x", "true"], { env })).code, 93);
});

test("an agent that is being restarted is waited for", async () => {
  await using made = await makeAgentDirs();
  const first = await startAgent({ dirs: made.dirs });
  const script = `echo up; read -r _; ${
    quoted(inner(made.dirs, "x", "echo", "joined"))
  }; echo code=$?`;
  await using outer = startCommand(made.dirs, ["run", "x", ...shell(made.dirs, script)]);
  await outer.out.waitFor((line) => line === "up");
  await first.kill();
  outer.child.stdin?.write("\n");
  await using _second = await startAgent({ dirs: made.dirs });
  await outer.out.waitFor((line) => line === "code=0");
  assert.ok(outer.out.all.includes("joined"));
});
