import assert from "node:assert/strict";
import { test } from "node:test";
import { SilenceWatch } from "../../agent/silence.ts";
import { startAgent } from "../support/agent_process.ts";
import { within } from "../support/events.ts";
import { freeze, signalPid } from "../support/processes.ts";
import { connectRpc, type RpcClient } from "../support/rpc_client.ts";

const SILENCE_MS = 400;

test("a session that is silent for too long loses its locks, is told so, and is closed", async () => {
  await using agent = await startAgent();
  await using client = await greet(agent.dirs.socket, SILENCE_MS);
  const { token } = await client.request("claim", { name: "deploy" });
  const { params } = await client.notification("lost");
  assert.deepEqual(params, {
    name: "deploy",
    token,
    reason: "silence",
    detail: "the session was silent for 400 ms",
  });
  await within(client.closed, { what: "the end of the connection" });
  await using other = await agent.client("b");
  const next = await other.request("claim", { name: "deploy", waitMs: 30_000 });
  assert.ok(next.token as number > (token as number));
});

test("pings keep a session for many times its silence limit", async () => {
  await using agent = await startAgent();
  await using client = await greet(agent.dirs.socket, SILENCE_MS);
  const { heldMs } = await client.request("claim", { name: "deploy" }).then(async () => {
    for (const endsAt = performance.now() + 4 * SILENCE_MS; performance.now() < endsAt;) {
      await client.request("ping");
      await new Promise((resolve) => setTimeout(resolve, SILENCE_MS / 8));
    }
    return await client.request("release", { name: "deploy" });
  });
  assert.ok((heldMs as number) >= 4 * SILENCE_MS);
  assert.equal(client.messages.all.some(({ method }) => method === "lost"), false);
});

test("a session without lock and without claim may be silent for as long as it likes", async () => {
  await using agent = await startAgent();
  await using quiet = await greet(agent.dirs.socket, 200);
  await using marker = await greet(agent.dirs.socket, 600);
  await marker.request("claim", { name: "clock" });
  await marker.notification("lost");
  assert.deepEqual(await quiet.request("ping"), {});
});

test("a waiting session is ended by its silence too, and its claim with it", async () => {
  await using agent = await startAgent();
  await using holder = await agent.client("holder");
  await holder.request("claim", { name: "deploy" });
  await using waiter = await greet(agent.dirs.socket, SILENCE_MS);
  waiter.request("claim", { name: "deploy", waitMs: 60_000 }).catch(() => {});
  await within(waiter.closed, { what: "the end of the connection" });
  const { locks } = await holder.request<Status>("status");
  assert.deepEqual(locks.map(({ waiters }) => waiters.length), [0]);
});

test("an agent that was stopped hears what came meanwhile before it judges", async () => {
  await using agent = await startAgent();
  await using client = await greet(agent.dirs.socket, SILENCE_MS);
  await client.request("claim", { name: "deploy" });
  assert.ok(await freeze(agent.pid));
  // Not a verdict by time: the stop has to be longer than the silence limit.
  const pings: Promise<unknown>[] = [];
  for (const endsAt = performance.now() + 3 * SILENCE_MS; performance.now() < endsAt;) {
    pings.push(client.request("ping"));
    await new Promise((resolve) => setTimeout(resolve, SILENCE_MS / 4));
  }
  signalPid(agent.pid, "SIGCONT");
  await Promise.all(pings);
  assert.equal((await client.request("release", { name: "deploy" })).name, "deploy");
});

test("a session of which something lies unread is heard first, however long that takes", async () => {
  const watch = new SilenceWatch();
  let looks = 0;
  await within(
    new Promise<void>((endForSilence) =>
      watch.add({
        silenceMs: 1,
        lastHeardAt: performance.now() - 1,
        hasUnread: () => ++looks < 4,
        endForSilence,
      })
    ),
    { what: "the end of the session" },
  );
  assert.equal(looks, 4);
});

interface Status extends Record<string, unknown> {
  locks: { waiters: unknown[] }[];
}

async function greet(socket: string, silenceMs: number): Promise<RpcClient> {
  const client = await connectRpc(socket);
  const hello = await client.request("hello", {
    ...{ protocol: 1, owner: "a", session: "process", silenceMs },
  });
  assert.equal(hello.silenceMs, silenceMs);
  return client;
}
