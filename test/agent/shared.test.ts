import assert from "node:assert/strict";
import { test } from "node:test";
import { startAgent } from "../support/agent_process.ts";
import { flock } from "../support/flock.ts";
import type { RpcError } from "../support/rpc_client.ts";
import { lockPath } from "../support/shell_lock.ts";

test("two sessions share a lock, each with a token and a holder of its own", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  const first = await a.request("claim", { name: "db", shared: true });
  const second = await b.request("claim", { name: "db", shared: true });
  assert.equal(second.shared, true);
  assert.notEqual(second.holderPid, first.holderPid);
  assert.ok((second.token as number) > (first.token as number));
  const { locks } = await a.request<{ locks: { holders: { owner: string }[] }[] }>("status");
  assert.deepEqual(locks.map(({ holders }) => holders.map(({ owner }) => owner)), [["a", "b"]]);
});

test("an exclusive claim waits for all who share, and later shared claims wait behind it", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  await using c = await agent.client("c");
  await using d = await agent.client("d");
  for (const client of [a, b]) await client.request("claim", { name: "db", shared: true });
  const order: string[] = [];
  const exclusive = c.request("claim", { name: "db", waitMs: 60_000 });
  exclusive.then(() => order.push("exclusive"), () => {});
  await c.notification("queued");
  await assert.rejects(
    d.request("claim", { name: "db", shared: true }),
    ({ data }: RpcError) => {
      assert.equal(data.code, "contended");
      assert.equal(data.holderCount, 2);
      assert.equal(data.queueLength, 1);
      return true;
    },
  );
  const later = d.request("claim", { name: "db", shared: true, waitMs: 60_000 });
  later.then(() => order.push("shared"), () => {});
  assert.equal((await d.notification("queued")).params.position, 2);
  await a.request("release", { name: "db" });
  await b.request("release", { name: "db" });
  await exclusive;
  await c.request("release", { name: "db" });
  await later;
  assert.deepEqual(order, ["exclusive", "shared"]);
});

test("a shared lock is shared with flock --shared, and refuses flock --exclusive", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  await client.request("claim", { name: "db", shared: true });
  const path = lockPath(agent.dirs.lockDir, "db");
  assert.equal((await flock(path)).kind, "contended");
  const shared = await flock(path, { shared: true });
  assert.ok(shared.kind === "held");
  await client.request("release", { name: "db" });
  await assert.rejects(
    client.request("claim", { name: "db" }),
    ({ data }: RpcError) => (data.holder as { pid: number }).pid === shared.holder.pid,
  );
  await shared.holder.end();
});
