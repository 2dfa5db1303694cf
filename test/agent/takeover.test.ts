import assert from "node:assert/strict";
import { test } from "node:test";
import { runCommand } from "../support/agent_command.ts";
import { startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import type { RpcError } from "../support/rpc_client.ts";
import { lockPath } from "../support/shell_lock.ts";

const LONG_MS = 60_000;

// The clients of these tests are one process: a clean-up would take all its children for leftovers.
const MINE = { name: "deploy", onEnd: "leave" };

test("who has the lock is asked for it, and its release hands it over", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  const first = await a.request<Claim>("claim", MINE);
  const taking = b.request<Claim>("claim", {
    ...MINE,
    takeover: { reason: "repair db1", deadlineMs: LONG_MS },
  });
  const { params } = await a.notification("takeover");
  assert.deepEqual(params, {
    name: "deploy",
    by: "b",
    byUid: process.getuid!(),
    reason: "repair db1",
    deadlineMs: LONG_MS,
    forced: true,
  });
  await a.request("release", { name: "deploy" });
  const taken = await taking;
  assert.deepEqual(taken.takenFrom, ["a"]);
  assert.ok(taken.token > first.token);
});

test("who does not release it in time loses it, and both sides and the log say who and why", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  await a.request("claim", MINE);
  const takeover = { reason: "repair db1", deadlineMs: 20 };
  const taken = await b.request<Claim>("claim", { ...MINE, takeover });
  assert.deepEqual(taken.takenFrom, ["a"]);
  const { params } = await a.notification("lost");
  assert.equal(params.reason, "taken-over");
  assert.match(params.detail as string, /^taken over by b \(.+\): repair db1$/);
  for (const event of ["takeover-asked", "lock-taken-over"]) {
    const found = await agent.events.waitFor((e) => e.event === event, { what: event });
    const { owner, by, byUid, why } = found;
    assert.deepEqual({ owner, by, byUid, why }, {
      owner: "a",
      by: "b",
      byUid: process.getuid!(),
      why: "repair db1",
    });
  }
});

test("a claim that does not wait for the deadline forces nothing, and says so", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  await a.request("claim", MINE);
  const takeover = { reason: "repair db1", deadlineMs: 1_000 };
  for (const waitMs of [0, 20]) {
    const refused = b.request("claim", { ...MINE, waitMs, takeover });
    const { params } = await a.notification("takeover");
    assert.equal(params.forced, false);
    await assert.rejects(refused, (error: RpcError) => error.data?.code === "contended");
  }
  assert.deepEqual(await a.request("ping", {}), {});
});

test("a takeover by force goes before claims that can only wait, and these keep their order", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  await using c = await agent.client("c");
  await using d = await agent.client("d");
  await a.request("claim", MINE);
  const order: string[] = [];
  const waits = [b, c].map(async (client, n) => {
    const claimed = client.request("claim", { ...MINE, waitMs: LONG_MS });
    await client.notification("queued");
    return claimed.then(async () => {
      order.push(n === 0 ? "b" : "c");
      await client.request("release", { name: "deploy" });
    });
  });
  await Promise.all([b.notification("queued"), c.notification("queued")]);
  await d.request("claim", { ...MINE, takeover: { reason: "urgent", deadlineMs: 20 } });
  order.push("d");
  await d.request("release", { name: "deploy" });
  await Promise.all(waits);
  assert.deepEqual(order, ["d", "b", "c"]);
});

test("the first cause of a loss is the one that is told", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  await a.request("claim", MINE);
  const taking = b.request("claim", {
    ...MINE,
    takeover: { reason: "repair", deadlineMs: LONG_MS },
  });
  await a.notification("takeover");
  await b.request("break", { name: "deploy", reason: "stuck" });
  await taking;
  const { params } = await a.notification("lost");
  assert.equal(params.reason, "broken");
});

test("a waiter that takes over is shown with its reason", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  await a.request("claim", MINE);
  const taking = b.request("claim", {
    ...MINE,
    takeover: { reason: "repair", deadlineMs: LONG_MS },
  });
  await a.notification("takeover");
  const { locks } = await a.request<Status>("status", { name: "deploy" });
  assert.deepEqual(locks[0]!.waiters.map(({ takeover }) => takeover), ["repair"]);
  await a.request("release", { name: "deploy" });
  await taking;
});

test("sessions that share the lock are all asked, and those that join later too", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  await using later = await agent.client("a");
  await using c = await agent.client("c");
  await a.request("claim", { ...MINE, shared: true });
  await b.request("claim", { ...MINE, shared: true });
  const taking = c.request<Claim>("claim", {
    ...MINE,
    takeover: { reason: "r", deadlineMs: LONG_MS },
  });
  await Promise.all([a.notification("takeover"), b.notification("takeover")]);
  await later.request("claim", { ...MINE, shared: true });
  await later.notification("takeover");
  for (const client of [a, b, later]) await client.request("release", { name: "deploy" });
  assert.deepEqual((await taking).takenFrom, ["a", "b"]);
});

test("who joins later has what is left of the time, so nobody puts the deadline off", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using later = await agent.client("a");
  await using c = await agent.client("c");
  await a.request("claim", MINE);
  const takeover = { reason: "r", deadlineMs: LONG_MS };
  const taking = c.request<Claim>("claim", { ...MINE, takeover });
  await a.notification("takeover");
  const askedAt = performance.now();
  await until(() => performance.now() - askedAt > 5, { what: "a later moment" });
  await later.request("claim", MINE);
  const { params } = await later.notification("takeover");
  assert.ok(params.deadlineMs as number < LONG_MS, `${params.deadlineMs} ms`);
  for (const client of [a, later]) await client.request("release", { name: "deploy" });
  await taking;
});

test("run --takeover says what stood in the way", async () => {
  await using agent = await startAgent();
  const foreign = await flock(lockPath(agent.dirs.lockDir, "foreign"));
  await using holder = await agent.client("a");
  await holder.request("claim", MINE);
  const cases = [["foreign", "nobody was there to be asked for it: wait with -w"], [
    MINE.name,
    "asked, not released: -w must outlast --takeover-deadline",
  ]] as const;
  for (const [name, hint] of cases) {
    const asking = ["run", "-w", "10ms", "--takeover", "hurry", name, "true"];
    const { code, stderr } = await runCommand(agent.dirs, asking);
    assert.equal(code, 124);
    assert.match(stderr, /^sshlock-agent: Cannot claim .*\nhint: /);
    assert.equal(stderr.split("hint: ")[1], `${hint}\n`);
  }
  if (foreign.kind === "held") await foreign.holder.end();
});

test("a takeover that is taken back ends nobody", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  await a.request("claim", MINE);
  const takeover = { reason: "r", deadlineMs: 100 };
  const taking = b.request("claim", { ...MINE, takeover });
  const refused = assert.rejects(taking, ({ data }: RpcError) => data.code === "cancelled");
  await a.notification("takeover");
  await b.request("release", { name: "deploy" });
  await refused;
  // The next claim is refused after the deadline of the first has passed.
  const waiting = b.request("claim", { ...MINE, waitMs: 300 });
  await assert.rejects(waiting, ({ data }: RpcError) => data.code === "contended");
});

for (
  const [field, takeover] of [
    ["takeover", "now"],
    ["takeover.reason", {}],
    ["takeover.reason", { reason: "" }],
    ["takeover.deadlineMs", { reason: "r", deadlineMs: -1 }],
  ] as const
) {
  test(`${field} of ${JSON.stringify(takeover)} is refused`, async () => {
    await using agent = await startAgent();
    await using a = await agent.client("a");
    await assert.rejects(a.request("claim", { ...MINE, takeover }), ({ data }: RpcError) => {
      assert.equal(data.code, "bad-params");
      assert.equal(data.field, field);
      return true;
    });
  });
}

interface Claim {
  token: number;
  takenFrom?: string[];
}

interface Status {
  locks: { waiters: { takeover?: string }[] }[];
}
