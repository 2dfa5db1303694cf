import assert from "node:assert/strict";
import { unlinkSync } from "node:fs";
import { test } from "node:test";
import { makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { isAlive, signalPid } from "../support/processes.ts";
import type { RpcClient, RpcError } from "../support/rpc_client.ts";
import { lockPath } from "../support/shell_lock.ts";

const LONG_MS = 60_000;

// The clients of these tests are one process: a clean-up would take all its children for leftovers.
const PARKED = { name: "deploy", onEnd: "leave", parkMs: LONG_MS };

test("a dropped link leaves the lock to its owner, who gets it with a higher token", async () => {
  await using agent = await startAgent();
  const first = await agent.client("a");
  const { token, holderPid } = await first.request<Claim>("claim", PARKED);
  await first.destroy();
  await using b = await agent.client("b");
  const holder = await untilParked(b);
  assert.equal(holder.owner, "a");
  assert.ok(holder.parkedForMs! > 0 && holder.parkedForMs! <= LONG_MS);
  await assert.rejects(b.request("claim", { name: "deploy" }), (error: RpcError) => {
    assert.equal(error.data.code, "contended");
    assert.match(error.message, /stays reserved for \d+ s/);
    return true;
  });
  assert.equal((await flock(lockPath(agent.dirs.lockDir, "deploy"))).kind, "contended");
  await using again = await agent.client("a");
  const back = await again.request<Claim>("claim", { name: "deploy" });
  assert.equal(back.unparked, true);
  assert.equal(back.holderPid, holderPid, "the kernel's lock is the same");
  assert.ok(back.token > token);
});

test("a parked lock is free when its time is over, and a waiter gets it", async () => {
  await using agent = await startAgent();
  const a = await agent.client("a");
  await a.request("claim", { ...PARKED, parkMs: 100 });
  await a.destroy();
  await using b = await agent.client("b");
  await b.request("claim", { name: "deploy", waitMs: LONG_MS });
  await agent.events.waitFor((event) => event.event === "park-ended", { what: "park-ended" });
});

test("the owner's waiting claim gets the parked lock before others that waited longer", async () => {
  await using agent = await startAgent();
  const first = await agent.client("a");
  // Another mode does not join.
  await first.request("claim", { ...PARKED, shared: true });
  await using b = await agent.client("b");
  await using again = await agent.client("a");
  const other = b.request("claim", { name: "deploy", waitMs: LONG_MS }).catch(() => "contended");
  await b.notification("queued");
  await first.destroy();
  await untilParked(b);
  const back = await again.request<Claim>("claim", {
    name: "deploy",
    shared: true,
    waitMs: LONG_MS,
  });
  assert.equal(back.unparked, true);
  await again.request("release", { name: "deploy" });
  assert.notEqual(await other, "contended");
});

test("a release, and a break of the session, park nothing", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  await a.request("claim", PARKED);
  await a.request("release", { name: "deploy" });
  await b.request("claim", { name: "deploy" });
  await b.request("release", { name: "deploy" });
  await a.request("claim", PARKED);
  await b.request("break", { name: "deploy", reason: "test" });
  await b.request("claim", { name: "deploy" });
});

test("a parked lock can be broken, and taken over at once", async () => {
  await using agent = await startAgent();
  await using b = await agent.client("b");
  for (const end of ["break", "takeover"]) {
    const a = await agent.client("a");
    await a.request("claim", PARKED);
    await a.destroy();
    await untilParked(b);
    if (end === "break") await b.request("break", { name: "deploy", reason: "test" });
    const takeover = { reason: "test", deadlineMs: LONG_MS };
    await b.request("claim", end === "break" ? { name: "deploy" } : { name: "deploy", takeover });
    await b.request("release", { name: "deploy" });
  }
});

test("a parked lock survives the agent's SIGKILL, and its holder's", async () => {
  await using made = await makeAgentDirs();
  const { dirs } = made;
  const before = await startAgent({ dirs });
  const first = await before.client("a");
  const { token } = await first.request<Claim>("claim", PARKED);
  await first.destroy();
  const watcher = await before.client("w");
  const { holderPid } = await untilParked(watcher);
  signalPid(holderPid, "SIGKILL");
  await before.events.waitFor((event) => event.event === "holder-replaced", {
    what: "a new holder",
  });
  await before.kill();
  await using agent = await startAgent({ dirs });
  await using b = await agent.client("b");
  await untilParked(b);
  await assert.rejects(b.request("claim", { name: "deploy" }));
  await using again = await agent.client("a");
  const back = await again.request<Claim>("claim", { name: "deploy" });
  assert.equal(back.unparked, true);
  assert.ok(back.token > token);
  assert.ok(isAlive(back.holderPid));
});

test("another user's claim, another owner's, and one of another mode do not get it", async () => {
  await using agent = await startAgent();
  const a = await agent.client("a");
  await a.request("claim", PARKED);
  await a.destroy();
  await using other = await agent.client("other");
  await untilParked(other);
  await using again = await agent.client("a");
  for (const [client, claim] of [[other, {}], [again, { shared: true }]] as const) {
    await assert.rejects(
      client.request("claim", { name: "deploy", ...claim }),
      ({ data }: RpcError) => data.code === "contended",
    );
  }
});

test("a lock that was lost with its file is not parked", async () => {
  await using agent = await startAgent();
  const a = await agent.client("a");
  await a.request("claim", PARKED);
  await a.destroy();
  await using b = await agent.client("b");
  await untilParked(b);
  unlinkSync(lockPath(agent.dirs.lockDir, "deploy"));
  await b.request("claim", { name: "deploy", waitMs: LONG_MS });
});

test("to reserve it for longer than the host allows is refused", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await assert.rejects(a.request("claim", { ...PARKED, parkMs: 600_001 }), ({ data }: RpcError) => {
    assert.deepEqual([data.code, data.limit, data.max], ["limit", "parkMs", 600_000]);
    return true;
  });
});

async function untilParked(client: RpcClient): Promise<Holder> {
  return await until(async () => {
    const { locks } = await client.request<Status>("status", { name: "deploy" });
    const [holder] = locks[0]!.holders;
    return holder?.state === "parked" ? holder : undefined;
  }, { what: "a parked lock" });
}

interface Claim {
  token: number;
  holderPid: number;
  unparked?: true;
}

interface Holder {
  owner: string;
  state: string;
  holderPid: number;
  parkedForMs?: number;
}

interface Status {
  locks: { holders: Holder[] }[];
}
