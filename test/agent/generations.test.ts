import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, openSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { buildAgent, withAgent } from "../support/agent_build.ts";
import {
  agentCommand,
  type AgentDirs,
  type AgentProcess,
  builtHolder,
  dirArgs,
  makeAgentDirs,
  startAgent,
} from "../support/agent_process.ts";
import { childExit } from "../support/child.ts";
import { until, WaitTimeoutError, within } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { freeze, isAlive, signalPid } from "../support/processes.ts";
import { requires, root } from "../support/requires.ts";
import { connectRpc, RpcError } from "../support/rpc_client.ts";
import { lockPath } from "../support/shell_lock.ts";

/** How long an agent is stopped: longer than the silence limit that its sessions have. */
const STOPPED_MS = Number(process.env.SSHLOCK_STOPPED_MS ?? 1_000);

test("an agent that was stopped for longer than the silence limit has ended nobody", async () => {
  await using agent = await startAgent();
  const client = await connectRpc(agent.dirs.socket);
  await client.request("hello", { ...hello("a"), silenceMs: STOPPED_MS / 2 });
  const { token } = await client.request("claim", { name: "deploy" });
  await freeze(agent.pid);
  const asked = client.request("status", { name: "deploy" }, STOPPED_MS + 60_000);
  await new Promise((resolve) => setTimeout(resolve, STOPPED_MS));
  signalPid(agent.pid, "SIGCONT");
  const { locks } = await asked as { locks: { holders: { token: number; state: string }[] }[] };
  assert.deepEqual(locks[0]?.holders.map(({ token, state }) => [token, state]), [[token, "held"]]);
  await client.destroy();
});

test("a stopped agent whose run file is gone does nothing beside its successor", async () => {
  await using made = await makeAgentDirs();
  await using old = await startAgent({ dirs: made.dirs });
  const [kept, left, late] = [
    await greet(old, "kept"),
    await greet(old, "left"),
    await greet(old, "late"),
  ];
  const { token } = await kept.client.request("claim", { name: "kept" });
  await left.client.request("claim", { name: "left" });
  await freeze(old.pid);
  // It would answer a claim, free a lock, and end a session with the other.
  const claimed = late.client.request("claim", { name: "late" });
  const released = left.client.request("release", { name: "left" });
  const unanswered = [claimed, released].map((request) =>
    assert.rejects(request, WaitTimeoutError)
  );
  await kept.client.destroy();
  rmSync(runFile(made.dirs));

  await using next = await startSuccessor(made.dirs);
  assert.equal(isAlive(old.pid), false, "the old one is dead before the next one serves");
  assert.equal((await within(old.exit)).signal, "SIGKILL");
  const ended = await next.events.waitFor(({ event }) => event === "generation-ended");
  assert.deepEqual([ended.pid, ended.inOrder], [old.pid, false]);
  await Promise.all(unanswered);
  assert.equal(existsSync(lockPath(made.dirs.lockDir, "late")), false);
  for (const name of ["kept", "left"]) {
    assert.equal((await flock(lockPath(made.dirs.lockDir, name))).kind, "contended");
  }
  await using again = await connectRpc(made.dirs.socket);
  const { locks } = await again.request("hello", { protocol: 1, resume: kept.secret });
  assert.deepEqual((locks as { token: number }[]).map((lock) => lock.token), [token]);
});

// The kernel may leave a line out of its table while other locks come and go.
test("a stopped agent is found where /proc/locks does not show its lock", {
  skip: requires(root, "unshare", "mount"),
}, async () => {
  await using made = await makeAgentDirs();
  await using old = await startAgent({ dirs: made.dirs });
  await freeze(old.pid);
  rmSync(runFile(made.dirs));
  const hideLocks = 'mount --bind /dev/null /proc/locks && exec "$0" "$@"';
  const prefix = ["unshare", "--mount", "sh", "-c", hideLocks];
  await using next = await startSuccessor(made.dirs, prefix);
  assert.equal(isAlive(old.pid), false);
  const ended = await next.events.waitFor(({ event }) => event === "generation-ended");
  assert.equal(ended.pid, old.pid);
});

test("an agent whose folder was removed hands its locks over to the next one", async () => {
  await using made = await makeAgentDirs();
  await using old = await startAgent({ dirs: made.dirs });
  const { client, secret } = await greet(old, "a");
  const { token } = await client.request("claim", { name: "deploy" });
  rmSync(made.dirs.runtimeDir, { recursive: true });
  await using next = await startSuccessor(made.dirs);
  const ended = await next.events.waitFor(({ event }) => event === "generation-ended");
  assert.deepEqual([ended.pid, ended.inOrder], [old.pid, true]);
  assert.equal(isAlive(old.pid), false);
  await using again = await connectRpc(made.dirs.socket);
  const { locks } = await again.request("hello", { protocol: 1, resume: secret });
  assert.deepEqual((locks as { token: number }[]).map((lock) => lock.token), [token]);
});

test("an agent of another folder is no older generation, nor is who reads the run file", async () => {
  await using other = await startAgent();
  await using made = await makeAgentDirs();
  writeFileSync(runFile(made.dirs), `${process.pid}\n${runFile(made.dirs)}\n`);
  const reading = openSync(runFile(made.dirs), "r");
  const reader = spawn("sleep", ["1000"], { stdio: [reading, "pipe", "pipe"] });
  const exit = childExit(reader);
  closeSync(reading);
  rmSync(runFile(made.dirs));
  await using agent = await startAgent({ dirs: made.dirs });
  await using client = await agent.client("a");
  await client.request("claim", { name: "deploy" });
  assert.ok(isAlive(reader.pid as number));
  assert.ok(isAlive(other.pid));
  assert.equal(agent.events.all.some(({ event }) => event === "generation-ended"), false);
  reader.kill("SIGKILL");
  await exit;
});

test("of two agents that start at once one serves, 25 times; live locks do not notice", async () => {
  await using made = await makeAgentDirs();
  const first = await startAgent({ dirs: made.dirs });
  const { client, secret } = await greet(first, "a");
  const { token } = await client.request("claim", { name: "deploy" });
  await first.kill();
  for (let round = 0; round < 25; round++) {
    const [one, two] = [startRacer(made.dirs), startRacer(made.dirs)];
    const racers = [one, two];
    const loser = await within(
      Promise.race(racers.map(async (racer) => {
        const { code } = await racer.exit;
        return { racer, code };
      })),
      { what: "the end of one of the two" },
    );
    const winner = loser.racer === one ? two : one;
    assert.equal(loser.code, 125);
    const pid = winner.child.pid as number;
    await until(() => winner.stderr().includes("agent-started"), {
      what: "the start of the other",
    });
    // One that has just taken the file may not have written its pid yet.
    assert.match(loser.racer.stderr(), new RegExp(`has .*agent\\.lock locked \\(pid ${pid}\\)`));
    assert.ok(isAlive(pid));
    await using again = await connectRpc(made.dirs.socket);
    const { locks } = await again.request("hello", { protocol: 1, resume: secret });
    assert.deepEqual((locks as { token: number }[]).map((lock) => lock.token), [token]);
    assert.equal((await flock(lockPath(made.dirs.lockDir, "deploy"))).kind, "contended");
    signalPid(pid, "SIGKILL");
    await winner.exit;
  }
});

test("without the end of older generations, a stopped one goes on and frees its locks", async () => {
  const argv = await buildAgent({
    name: "no-generations",
    patches: [{
      file: "agent/server.ts",
      find: "  await endOlderGenerations(runFile, log);\n",
      replace: "",
    }],
  });
  await using made = await makeAgentDirs();
  await withAgent(argv, async () => {
    await using old = await startAgent({ dirs: made.dirs });
    const { client, secret } = await greet(old, "a");
    await client.request("claim", { name: "deploy" });
    await freeze(old.pid);
    client.stream.destroy();
    rmSync(runFile(made.dirs));
    // The record names an agent that lives, so it is none to take over.
    await using next = await startSuccessor(made.dirs);
    await using again = await connectRpc(made.dirs.socket);
    const resumed = again.request("hello", { protocol: 1, resume: secret });
    await assert.rejects(resumed, (error: RpcError) => error.data.code === "no-session");
    signalPid(old.pid, "SIGCONT");
    await old.events.waitFor(({ event }) => event === "lock-ended");
    assert.equal(next.events.all.some(({ event }) => event === "lock-adopted"), false);
  });
});

/** The socket of the one before accepts as well, until that is dead. */
async function startSuccessor(dirs: AgentDirs, prefix: string[] = []): Promise<AgentProcess> {
  const agent = await startAgent({ dirs, prefix });
  await agent.events.waitFor(({ event }) => event === "agent-started");
  return agent;
}

interface Racer {
  child: ChildProcess;
  exit: ReturnType<typeof childExit>;
  stderr(): string;
}

function startRacer(dirs: AgentDirs): Racer {
  const [program, ...args] = agentCommand() as [string, ...string[]];
  const all = [...args, "serve", ...dirArgs(dirs), "--holder", builtHolder()];
  const child = spawn(program, all, { stdio: ["ignore", "ignore", "pipe"] });
  let text = "";
  child.stderr.setEncoding("utf8").on("data", (part: string) => text += part);
  const closed = new Promise((resolve) => child.once("close", resolve));
  const exit = childExit(child).then(async (ending) => {
    await closed;
    return ending;
  });
  return { child, exit, stderr: () => text };
}

function runFile(dirs: AgentDirs): string {
  return join(dirs.runtimeDir, "agent.lock");
}

function hello(owner: string) {
  return { protocol: 1, client: "test", owner, session: "process" };
}

async function greet(agent: AgentProcess, owner: string) {
  const client = await connectRpc(agent.dirs.socket);
  const { session } = await client.request("hello", hello(owner));
  return { client, secret: (session as { secret: string }).secret };
}
