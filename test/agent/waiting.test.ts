import assert from "node:assert/strict";
import { test } from "node:test";
import { type AgentProcess, startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { processesWithLockIn } from "../support/processes.ts";
import type { RpcClient, RpcError } from "../support/rpc_client.ts";
import { lockPath } from "../support/shell_lock.ts";

const LONG_MS = 60_000;

test("a waiting claim is told its place and who has the lock, and gets it after the release", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  const first = await a.request<Claim>("claim", { name: "deploy" });
  const waiting = b.request<Claim>("claim", { name: "deploy", waitMs: LONG_MS });
  const { params } = await b.notification("queued");
  assert.equal(params.name, "deploy");
  assert.equal(params.position, 1);
  assert.equal((params.holder as Record<string, unknown>).owner, "a");
  await a.request("release", { name: "deploy" });
  assert.ok((await waiting).token > first.token);
});

test("a claim that has waited long enough is refused with how long that was", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  const { holderPid } = await a.request<Claim>("claim", { name: "deploy" });
  await assert.rejects(
    b.request("claim", { name: "deploy", waitMs: 50 }),
    ({ data }: RpcError) => {
      assert.equal(data.code, "contended");
      assert.ok((data.waitedMs as number) >= 49, `waited ${data.waitedMs} ms`);
      assert.equal((data.holder as Record<string, unknown>).owner, "a");
      return true;
    },
  );
  await untilOnlyHolder(agent, holderPid);
});

test("twenty waiters get the lock in the order they came, each with a higher token", async () => {
  await using agent = await startAgent();
  const clients = await Promise.all(Array.from({ length: 21 }, (_, n) => agent.client(`w${n}`)));
  const [first, ...waiters] = clients as [RpcClient, ...RpcClient[]];
  const tokens = [(await first.request<Claim>("claim", { name: "deploy" })).token];
  const order: number[] = [];
  const done: Promise<void>[] = [];
  for (const [n, client] of waiters.entries()) {
    done.push((async () => {
      const claim = { name: "deploy", waitMs: LONG_MS };
      const { token } = await client.request<Claim>("claim", claim);
      order.push(n);
      tokens.push(token);
      await client.request("release", { name: "deploy" });
    })());
    assert.equal((await client.notification("queued")).params.position, n + 1);
  }
  await first.request("release", { name: "deploy" });
  await Promise.all(done);
  assert.deepEqual(order, Array.from({ length: 20 }, (_, n) => n));
  assert.deepEqual(tokens, [...tokens].sort((x, y) => x - y));
  assert.equal(new Set(tokens).size, 21);
  await Promise.all(clients.map((client) => client.destroy()));
});

test("behind a flock(1) the kernel queues the waiter, and wakes it", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  const outcome = await flock(lockPath(agent.dirs.lockDir, "deploy"));
  assert.ok(outcome.kind === "held");
  const waiting = client.request<Claim>("claim", { name: "deploy", waitMs: LONG_MS });
  const { params } = await client.notification("queued");
  assert.equal((params.holder as Record<string, unknown>).pid, outcome.holder.pid);
  await outcome.holder.end();
  const { holderPid } = await waiting;
  assert.deepEqual(processesWithLockIn(agent.dirs.lockDir), [holderPid]);
});

test("a flock(1) that waits behind ours gets the lock when we release it", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  await client.request("claim", { name: "deploy" });
  const waiting = flock(lockPath(agent.dirs.lockDir, "deploy"), { waitMs: LONG_MS });
  await client.request("release", { name: "deploy" });
  const outcome = await waiting;
  assert.ok(outcome.kind === "held");
  await outcome.holder.end();
});

test("a claim that does not wait never overtakes one that does", async () => {
  await using agent = await startAgent();
  await using waiter = await agent.client("waiter");
  await using rusher = await agent.client("rusher");
  const outcome = await flock(lockPath(agent.dirs.lockDir, "deploy"));
  assert.ok(outcome.kind === "held");
  const waiting = waiter.request<Claim>("claim", { name: "deploy", waitMs: LONG_MS });
  await waiter.notification("queued");
  let isGranted = false;
  waiting.then(() => isGranted = true, () => {});
  const rushing = (async () => {
    for (;;) {
      const claimed = await rusher.request("claim", { name: "deploy" }).catch(() => undefined);
      if (claimed !== undefined) return "overtook";
      if (isGranted) return "refused";
    }
  })();
  await outcome.holder.end();
  await waiting;
  assert.equal(await rushing, "refused");
});

test("a waiter that takes its claim back leaves nothing behind", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  const { holderPid } = await a.request<Claim>("claim", { name: "deploy" });
  const waiting = b.request("claim", { name: "deploy", waitMs: LONG_MS });
  await b.notification("queued");
  const cancelled = assert.rejects(waiting, (e: RpcError) => e.data.code === "cancelled");
  assert.equal((await b.request("release", { name: "deploy" })).token, 0);
  await cancelled;
  await untilOnlyHolder(agent, holderPid);
});

for (const blocker of ["agent", "flock(1)"] as const) {
  test(`a waiter whose connection ends leaves nothing behind (held by ${blocker})`, async () => {
    await using agent = await startAgent();
    await using a = await agent.client("a");
    const path = lockPath(agent.dirs.lockDir, "deploy");
    const foreign = blocker === "agent" ? undefined : await flock(path);
    if (foreign === undefined) await a.request("claim", { name: "deploy" });
    const b = await agent.client("b");
    b.request("claim", { name: "deploy", waitMs: LONG_MS }).catch(() => {});
    await b.notification("queued");
    await b.destroy();
    await agent.events.waitFor((e) => e.event === "claim-refused" && e.code === "cancelled");
    if (foreign?.kind === "held") await foreign.holder.end();
    else await a.request("release", { name: "deploy" });
    await until(() => processesWithLockIn(agent.dirs.lockDir).length === 0, { what: "no holder" });
    // A killed process's descriptors may be closed a moment after its end is seen.
    assert.ok((await a.request<Claim>("claim", { name: "deploy", waitMs: 5_000 })).token);
  });
}

interface Claim extends Record<string, unknown> {
  token: number;
  holderPid: number;
}

async function untilOnlyHolder({ dirs }: AgentProcess, pid: number): Promise<void> {
  const isAlone = () => processesWithLockIn(dirs.lockDir).join() === String(pid);
  await until(isAlone, { what: `${pid} as the only holder` });
}
