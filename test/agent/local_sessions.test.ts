// The clients of these tests are one process: its children are below the root of each of its sessions.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { startCommand } from "../support/agent_command.ts";
import { type AgentProcess, startAgent } from "../support/agent_process.ts";
import { childExit } from "../support/child.ts";
import { until } from "../support/events.ts";
import { isAlive } from "../support/processes.ts";
import { connectRpc } from "../support/rpc_client.ts";

const LONG_MS = 60_000;

test("the end of a local session ends nothing of another session of its process", async () => {
  await using agent = await startAgent();
  await using a = await open(agent, "a");
  await using b = await open(agent, "b");
  await a.client.request("claim", { name: "x", graceMs: 20 });
  await b.client.request("claim", { name: "y" });
  await using ofA = startChild({ SSHLOCK_SESSION: a.id });
  await using ofB = startChild({ SSHLOCK_SESSION: b.id });
  await using ofEither = startChild({});
  await using run = startCommand(agent.dirs, ["run", "z", "sh", "-c", "echo up; exec cat"]);
  await run.out.waitFor((line) => line === "up");
  await a.client.destroy();
  await using next = await open(agent, "next");
  const granted = next.client.request("claim", { name: "x", waitMs: LONG_MS }, LONG_MS);
  granted.catch(() => {}); // what fails before it is the cause
  await ofA.exit;
  await until(async () => {
    const awaited = await awaitedFor(agent, "x");
    return awaited.length === 1 && awaited[0] === ofEither.pid;
  }, { what: "a wait for what may be of either session", deadlineMs: LONG_MS });
  await ofEither.end();
  await granted;
  assert.ok(isAlive(ofB.pid), "what is marked as the other's goes on");
  assert.ok(!run.out.all.includes("term") && isAlive(run.pid), "and so does a run of its own");
  run.child.stdin?.end();
  assert.equal((await run.end).code, 0);
});

test("what the sessions of one process share is ended with the last of them", async () => {
  await using agent = await startAgent();
  await using a = await open(agent, "a");
  await using b = await open(agent, "b");
  await a.client.request("claim", { name: "x", graceMs: 20 });
  await b.client.request("claim", { name: "y", graceMs: LONG_MS });
  await using ofEither = startChild({});
  await a.client.destroy();
  await until(async () => (await awaitedFor(agent, "x")).includes(ofEither.pid), {
    what: "a wait for what they share",
    deadlineMs: LONG_MS,
  });
  assert.ok(isAlive(ofEither.pid));
  await b.client.destroy();
  assert.equal((await ofEither.exit).signal, "SIGTERM");
  await using next = await open(agent, "next");
  await next.client.request("claim", { name: "x", waitMs: LONG_MS }, LONG_MS);
  await next.client.request("claim", { name: "y", waitMs: LONG_MS }, LONG_MS);
});

test("a session that only waits has no part in the children of its process", async () => {
  await using agent = await startAgent();
  await using a = await open(agent, "a");
  await using b = await open(agent, "b");
  await a.client.request("claim", { name: "x" });
  await using ofA = startChild({});
  const granted = b.client.request("claim", { name: "x", waitMs: LONG_MS }, LONG_MS);
  await b.client.notification("queued");
  await a.client.destroy();
  await granted;
  assert.ok(!isAlive(ofA.pid), "granted once the child is gone");
});

async function open(agent: AgentProcess, owner: string) {
  const client = await connectRpc(agent.dirs.socket);
  const who = { owner, session: "process", silenceMs: 0 };
  const { session } = await client.request<Hello>("hello", { protocol: 1, ...who });
  return { client, id: session.id, [Symbol.asyncDispose]: () => client.destroy() };
}

function startChild(env: Record<string, string>) {
  const child = spawn("sleep", ["1000"], { stdio: "ignore", env: { ...process.env, ...env } });
  const exit = childExit(child);
  const end = async () => {
    child.kill("SIGKILL");
    await exit;
  };
  return { pid: child.pid as number, exit, end, [Symbol.asyncDispose]: end };
}

async function awaitedFor(agent: AgentProcess, name: string): Promise<number[]> {
  await using client = await connectRpc(agent.dirs.socket);
  const { locks } = await client.request<Status>("status", { name });
  return locks[0]?.holders[0]?.awaiting?.map(({ pid }) => pid) ?? [];
}

interface Hello {
  session: { id: string };
}

interface Status {
  locks: { holders: { awaiting?: { pid: number }[] }[] }[];
}
