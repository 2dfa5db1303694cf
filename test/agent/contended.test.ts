import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { userInfo } from "node:os";
import { test } from "node:test";
import { startAgent } from "../support/agent_process.ts";
import { flock } from "../support/flock.ts";
import { RpcError } from "../support/rpc_client.ts";
import type { RpcClient } from "../support/rpc_client.ts";
import { lockPath, shellLock } from "../support/shell_lock.ts";

test("a claim of what another owner has is refused with all that is known of that one", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("respirate/42");
  await using b = await agent.client("b");
  const before = Date.now();
  const { holderPid, token } = await a.request("claim", { name: "deploy", purpose: "repair db1" });
  const error = await refused(b, "deploy");
  const { holder, ...facts } = error.data;
  assert.deepEqual(facts, {
    code: "contended",
    name: "deploy",
    holderCount: 1,
    queueLength: 0,
    waitedMs: 0,
  });
  const { since, heldMs, lastHeardMs, ...known } = holder as Record<string, unknown>;
  assert.deepEqual(known, {
    kind: "own",
    owner: "respirate/42",
    purpose: "repair db1",
    uid: process.getuid!(),
    user: userInfo().username,
    peerPid: process.pid,
    holderPid,
    token,
    shared: false,
    state: "held",
  });
  assert.ok((since as number) >= before && (since as number) <= Date.now());
  assert.ok((heldMs as number) >= 0 && (lastHeardMs as number) >= 0);
  assert.equal(error.code, -32000);
  assert.match(
    error.message,
    /^Cannot claim "deploy": held by respirate\/42 \(.*\) for "repair db1" /,
  );
});

test("what stands in the way counts who waits already", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  await using c = await agent.client("c");
  await a.request("claim", { name: "deploy" });
  b.send({ jsonrpc: "2.0", id: 90, method: "claim", params: { name: "deploy", waitMs: 60_000 } });
  assert.equal((await b.notification("queued")).params.position, 1);
  assert.equal((await refused(c, "deploy")).data.queueLength, 1);
});

test("a holder of the shell protocol is named with pid, uid and command", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  await using outcome = await lockByShell(agent.dirs.lockDir, "deploy");
  const { data, message } = await refused(client, "deploy");
  assert.deepEqual(data.holder, {
    kind: "foreign",
    pid: outcome.holderPid,
    uid: process.getuid!(),
    user: userInfo().username,
    command: "session-lock-deploy infinity",
    shared: false,
  });
  assert.match(
    message,
    /held by a foreign holder \(pid \d+, uid \d+, session-lock-deploy infinity\)/,
  );
});

test("a flock(1) on the lock file is named with pid, uid and command", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  const path = lockPath(agent.dirs.lockDir, "deploy");
  const outcome = await flock(path);
  assert.ok(outcome.kind === "held");
  const holder = (await refused(client, "deploy")).data.holder as Record<string, unknown>;
  assert.equal(holder.kind, "foreign");
  assert.equal(holder.pid, outcome.holder.pid);
  assert.equal(holder.uid, process.getuid!());
  assert.ok((holder.command as string).startsWith(`flock --exclusive`), String(holder.command));
  await outcome.holder.end();
  assert.ok((await client.request("claim", { name: "deploy" })).token);
});

test("the shell protocol and flock(1) are refused by ours, and get it after the release", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  const { lockDir } = agent.dirs;
  await client.request("claim", { name: "deploy" });
  const shell = await shellLock(lockDir, "deploy");
  assert.equal(shell.kind, "contended");
  assert.ok(shell.kind === "contended" && /Another session active: {1,2}deploy/.test(shell.text));
  assert.equal((await flock(lockPath(lockDir, "deploy"))).kind, "contended");
  await client.request("release", { name: "deploy" });
  const after = await shellLock(lockDir, "deploy");
  assert.equal(after.kind, "locked");
  if (after.kind === "locked") await after.lock.end();
});

test("where the lock folder has gone, the shell protocol exits 92 and a claim says why", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  const { lockDir } = agent.dirs;
  rmSync(lockDir, { recursive: true });
  assert.equal((await shellLock(lockDir, "deploy")).kind, "no-file");
  await assert.rejects(client.request("claim", { name: "deploy" }), (error: RpcError) => {
    assert.equal(error.data.code, "lock-file");
    assert.equal(error.data.reason, "missing-folder");
    return true;
  });
});

async function refused(client: RpcClient, name: string): Promise<RpcError> {
  const outcome = await client.request("claim", { name }).catch((error: unknown) => error);
  assert.ok(outcome instanceof RpcError, `expected a refusal, got ${JSON.stringify(outcome)}`);
  assert.equal(outcome.data.code, "contended");
  return outcome;
}

async function lockByShell(lockDir: string, name: string) {
  const outcome = await shellLock(lockDir, name);
  assert.ok(outcome.kind === "locked");
  return outcome.lock;
}
