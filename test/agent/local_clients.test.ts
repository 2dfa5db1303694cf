// What becomes of a local program that lives on when its lock is taken from it.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { startCommand } from "../support/agent_command.ts";
import { type AgentProcess, startAgent } from "../support/agent_process.ts";
import { childExit, eachLine } from "../support/child.ts";
import { EventLog, until } from "../support/events.ts";
import { freeze, isAlive } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { connectRpc, type RpcClient } from "../support/rpc_client.ts";

const LONG_MS = 60_000;
const skip = requires("python3");

test(
  "a client that goes on after a break is ended before the next grant, but not one with more locks",
  {
    skip,
  },
  async () => {
    await using agent = await startAgent();
    await using client = await startClient(agent, "x");
    await using daemon = await startClient(agent, "y", "z");
    await using next = await startSession(agent, "next");
    for (const name of ["x", "y"]) await next.request("break", { name, reason: "it is needed" });
    const granted = claim(next, "x");
    let isYGranted = false;
    const yGranted = claim(next, "y").then(() => isYGranted = true);
    await untilAwaited(next, "x", client.pid);
    await untilAwaited(next, "y", daemon.pid);
    assert.ok(isAlive(client.pid));
    await granted;
    assert.equal(isAlive(client.pid), false, "it was granted beside the client");
    assert.equal((await client.exit).signal, "SIGKILL");
    assert.deepEqual([isAlive(daemon.pid), isYGranted], [true, false]);
    daemon.close("y");
    await yGranted;
    assert.ok(isAlive(daemon.pid), "it has said that it is out of it");
    const { locks } = await next.request<Status>("status", { name: "z" });
    assert.equal(locks[0]!.holders[0]!.state, "held");
  },
);

test("a run that is stopped when its lock is broken is woken, and hears why", async () => {
  await using agent = await startAgent();
  await using run = startCommand(agent.dirs, ["run", "x", "sh", "-c", "echo up; exec cat"]);
  await run.out.waitFor((line) => line === "up");
  await freeze(run.pid);
  await using next = await startSession(agent, "next");
  await next.request("break", { name: "x", reason: "it hangs" });
  await untilAwaited(next, "x", run.pid);
  await claim(next, "x");
  const { code, stderr } = await run.end;
  assert.equal(code, 93);
  assert.match(stderr, /Lost lock "x": broken by .*: it hangs; ending the command/);
});

/** It may wait for as long as it takes, on however busy a host. */
async function startSession(agent: AgentProcess, owner: string): Promise<RpcClient> {
  const client = await connectRpc(agent.dirs.socket);
  const who = { protocol: 1, client: "test", owner, session: "process", silenceMs: 0 };
  await client.request("hello", who);
  return client;
}

function claim(client: RpcClient, name: string): Promise<unknown> {
  const granted = client.request("claim", { name, waitMs: LONG_MS }, LONG_MS);
  granted.catch(() => {}); // what fails before it is the cause
  return granted;
}

async function startClient(agent: AgentProcess, ...names: string[]) {
  const args = ["test/fixtures/deaf_client.py", agent.dirs.socket, ...names];
  const child = spawn("python3", args, { stdio: ["pipe", "pipe", "inherit"] });
  child.stdin.on("error", () => {/* it was ended: that is what this is about */});
  const exit = childExit(child);
  const out = new EventLog<string>();
  eachLine(child.stdout, (line) => out.push(line));
  await out.waitFor((line) => line === "held");
  const close = (name: string) => child.stdin.write(`${name}\n`);
  const dispose = async () => {
    child.kill("SIGKILL");
    await exit;
  };
  return { pid: child.pid as number, exit, close, [Symbol.asyncDispose]: dispose };
}

async function untilAwaited(client: RpcClient, name: string, pid: number): Promise<void> {
  await until(async () => {
    const { locks } = await client.request<Status>("status", { name });
    const holder = locks[0]?.holders[0];
    return holder?.state === "ending" && holder.awaiting?.some((each) => each.pid === pid);
  }, { what: `an end that waits for ${pid}`, deadlineMs: LONG_MS });
}

interface Status {
  locks: { holders: { state: string; awaiting?: { pid: number }[] }[] }[];
}
