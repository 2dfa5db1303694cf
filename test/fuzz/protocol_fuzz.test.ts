import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { connect } from "node:net";
import { test, type TestContext } from "node:test";
import fc from "fast-check";
import { MAX_LINE_BYTES } from "../../protocol/limits.ts";
import { type AgentProcess, startAgent, whyNoAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { requires } from "../support/requires.ts";
import { connectRpc, type RpcClient } from "../support/rpc_client.ts";
import { readUsage } from "./agent_memory.ts";
import { startBystander } from "./bystander.ts";

const skip = whyNoAgent() ?? requires("flock");

const anything = fc.oneof(
  fc.jsonValue({ maxDepth: 4 }),
  fc.constantFrom<unknown>(0, -1, 1e300, 2 ** 53, 0.1, "", "\u0000", "\ud800", "a".repeat(5_000)),
);
const names = fc.constantFrom("a", "b", "victim");

/** Valid requests; each field may then be replaced by anything. Nothing here waits for long. */
const params = fc.record({
  name: names,
  after: names,
  shared: fc.boolean(),
  waitMs: fc.nat(20),
  purpose: fc.string({ minLength: 1, maxLength: 20 }),
  protocol: fc.constant(1),
  owner: fc.constantFrom("x", "y"),
  session: fc.constantFrom("ssh", "process"),
  silenceMs: fc.nat(1_000),
  resume: fc.constantFrom("no such secret"),
  // A clean-up would take all processes of this test for leftovers.
  onEnd: fc.constant("leave"),
  graceMs: fc.nat(20),
  parkMs: fc.nat(20),
  takeover: fc.record({ reason: fc.constantFrom("r", ""), deadlineMs: fc.nat(20) }),
  reason: fc.constantFrom("r", "", "\u001b[2J"),
  // They would go to the processes of this test.
  signal: fc.constantFrom("SIGCONT", "SIGWINCH"),
  pid: fc.integer(),
}, { requiredKeys: ["name", "onEnd"] });
const methods = fc.constantFrom(
  ...["hello", "claim", "claim", "release", "ping", "status", "watch", "nothing"],
  ...["processes", "signal", "break"],
);
const valid = fc.record({ jsonrpc: fc.constant("2.0"), method: methods, params }).map(spareVictim);
const field = fc.constantFrom(
  ...["name", "shared", "purpose", "protocol", "owner", "after", "session", "silenceMs", "resume"],
  ...["graceMs", "parkMs", "takeover", "reason", "signal", "pid"],
);
const mutated = fc.tuple(valid, field, anything).map(([request, field, value]) => ({
  ...request,
  params: { ...request.params, [field]: value },
}));
const shapeless = fc.dictionary(
  fc.constantFrom("jsonrpc", "method", "params", "result", "error", "__proto__", "constructor"),
  anything,
);
const requests = fc.oneof(
  { weight: 5, arbitrary: valid },
  { weight: 3, arbitrary: mutated },
  { weight: 1, arbitrary: shapeless },
);

test("every request id is answered once, in whatever order, form and pieces requests come", {
  skip,
}, async (t) => {
  await withBystander(t, async (agent) => {
    const cuts = fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 5 });
    const conversation = fc.tuple(fc.array(requests, { minLength: 1, maxLength: 25 }), cuts);
    await check(t, conversation, 150, async ([sent, cuts]) => {
      await using client = await connectRpc(agent.dirs.socket);
      const bytes = sent.map((request, id) => JSON.stringify({ ...request, id }) + "\n").join("");
      for (const piece of piecesOf(Buffer.from(bytes), cuts)) client.sendRaw(piece);
      for (const id of sent.keys()) await answerTo(client, id);
      const ids = client.messages.all.filter((m) => m.method === undefined).map((m) => m.id);
      assert.deepEqual([...ids].sort(), [...sent.keys()].sort());
    });
  });
});

test("random bytes are answered or the connection is closed with an error", { skip }, async (t) => {
  await withBystander(t, async (agent) => {
    await check(t, fc.uint8Array({ minLength: 1, maxLength: 2_000 }), 150, async (bytes) => {
      const client = await connectRpc(agent.dirs.socket);
      client.sendRaw(Buffer.concat([bytes, Buffer.from("\n")]));
      await client.close();
      const isBlank = bytes.every((byte) => byte === 0x0a);
      assert.ok(isBlank || client.messages.all.some((message) => message.error !== undefined));
    });
  });
});

test("a half-closed connection gets the answers to what was asked before", { skip }, async (t) => {
  await withBystander(t, async (agent) => {
    await check(t, fc.array(requests, { minLength: 1, maxLength: 10 }), 60, async (sent) => {
      const client = await connectRpc(agent.dirs.socket);
      client.send(...sent.map((request, id) => ({ ...request, id })));
      await client.close();
      for (const id of sent.keys()) {
        assert.ok(client.messages.all.some((message) => message.id === id), `no answer to ${id}`);
      }
    });
  });
});

test("lines at the limit are read, longer ones end the connection with line-too-long", {
  skip,
}, async (t) => {
  await withBystander(t, async (agent) => {
    for (const more of [-1, 0]) {
      await using client = await connectRpc(agent.dirs.socket);
      client.sendRaw(pingOf(MAX_LINE_BYTES + more));
      assert.deepEqual((await answerTo(client, 7)).result, {});
    }
    for (const text of [pingOf(MAX_LINE_BYTES + 1), "x".repeat(5 * MAX_LINE_BYTES)]) {
      await using client = await connectRpc(agent.dirs.socket);
      client.sendRaw(text);
      assert.equal(codeOf(await answerTo(client, null)), "line-too-long");
      await client.closed;
    }
  });
});

test("a line that comes a byte at a time is read", { skip }, async (t) => {
  await withBystander(t, async (agent) => {
    await using client = await connectRpc(agent.dirs.socket);
    for (const byte of Buffer.from(pingOf(300))) {
      await new Promise((resolve) => client.stream.write(Buffer.from([byte]), resolve));
    }
    assert.deepEqual((await answerTo(client, 7)).result, {});
  });
});

test("special values cost only their sender", { skip }, async (t) => {
  const cases: [text: string | Uint8Array, id: unknown, code: string | undefined][] = [
    ["[".repeat(60_000), null, "parse-error"],
    ["[".repeat(30_000) + "]".repeat(30_000), null, "invalid-request"],
    [request("release", `{"name":${"[".repeat(20_000) + "]".repeat(20_000)}}`), 1, "bad-name"],
    [request("release", '{"__proto__":{"name":"victim"}}'), 1, "bad-name"],
    ['{"__proto__":{"jsonrpc":"2.0","method":"ping"},"id":1}', 1, "invalid-request"],
    [request("hello", '{"protocol":1e999}'), 1, "bad-params"],
    [request("hello", '{"protocol":-0}'), 1, "protocol-mismatch"],
    [request("ping", "{}", "1e999"), null, "invalid-request"],
    [request("ping", "{}", `"${"i".repeat(60_000)}"`), null, "invalid-request"],
    [request("m".repeat(60_000), "{}"), 1, "unknown-method"],
    [request("ping", "{}", "12345678901234567890"), 12345678901234567890, undefined],
    [request("release", '{"name":"victim"}'), 1, "not-held"],
    [request("claim", '{"name":"victim"}'), 1, "hello-first"],
    [Buffer.from([0x22, 0xc3, 0x28, 0x22]), null, "parse-error"],
    ["null", null, "invalid-request"],
    ["1e999999", null, "invalid-request"],
  ];
  await withBystander(t, async (agent) => {
    for (const [text, id, code] of cases) {
      await using client = await connectRpc(agent.dirs.socket);
      client.sendRaw(Buffer.concat([Buffer.from(text as string), Buffer.from("\n")]));
      assert.equal(codeOf(await answerTo(client, id)), code, String(text).slice(0, 80));
    }
  });
});

test("thousands of requests whose answers nobody reads end the connection, not the agent", {
  skip,
}, async (t) => {
  await withBystander(t, async (agent) => {
    for (const method of ["ping", "status", "nothing"]) {
      const socket = connect(agent.dirs.socket);
      await once(socket, "connect");
      socket.pause();
      const closed = new Promise((resolve) => socket.once("close", resolve));
      socket.on("error", () => {/* EPIPE: it was cut off */});
      const many = Buffer.from((request(method, "{}") + "\n").repeat(1_000));
      // So much that neither side's buffers can take it; the agent cuts off who does not read.
      for (let sent = 0; sent < 200 && !socket.destroyed; sent++) {
        const isSent = new Promise((resolve) => socket.write(many, resolve));
        await Promise.race([isSent, closed]);
      }
      socket.destroy();
      await closed;
      assert.ok(readUsage(agent.pid).residentKb < 400 * 1024);
    }
  });
});

test("a claim that waits does not keep back the answers to later pings", { skip }, async (t) => {
  await withBystander(t, async (agent) => {
    await using client = await agent.client("waiter");
    client.send({
      ...{ jsonrpc: "2.0", id: "w", method: "claim" },
      params: { name: "victim", waitMs: 60_000 },
    });
    await client.notification("queued");
    for (let i = 0; i < 5; i++) assert.deepEqual(await client.request("ping", {}, 5_000), {});
    assert.deepEqual(await client.request("release", { name: "victim" }), {
      ...{ name: "victim", token: 0, heldMs: 0 },
    });
    assert.equal(codeOf(await answerTo(client, "w")), "cancelled");
  });
});

test("more locks and waiters than fit a line come in pages", { skip }, async (t) => {
  await withBystander(t, async (agent) => {
    await using many = await agent.client("many");
    const purpose = '"'.repeat(500);
    const count = 120;
    for (let i = 0; i < count; i++) await many.request("claim", { name: `n${1000 + i}`, purpose });
    await using watcher = await agent.client("watcher");
    await watcher.request("watch", { name: "victim" });
    const waiters: RpcClient[] = [];
    for (let i = 0; i < count; i++) {
      const waiter = await agent.client("waiter");
      waiters.push(waiter);
      const claim = { name: "victim", waitMs: 60_000, purpose };
      waiter.send({ jsonrpc: "2.0", id: "w", method: "claim", params: claim });
      await waiter.notification("queued");
    }
    const names: string[] = [];
    let after: string | undefined;
    for (let more = true, pages = 0; more; pages++) {
      const page = await many.request<Page>("status", after === undefined ? {} : { after });
      names.push(...page.locks.map(({ name }) => name));
      const victim = page.locks.find(({ name }) => name === "victim");
      if (victim !== undefined) {
        assert.equal(victim.waiters.length + (victim.waitersOmitted ?? 0), count);
      }
      after = names.at(-1);
      more = page.more === true;
      assert.ok(pages < 20);
    }
    assert.equal(names.length, count + 1);
    assert.equal(new Set(names).size, count + 1);
    for (const waiter of waiters) await waiter.destroy();
  });
});

/**
 * All sessions here are of one user, who may end each of them: the bystander's lock is not taken over,
 * and no session breaks its own.
 */
function spareVictim<T extends { method: string; params: { name: string; takeover?: unknown } }>(
  request: T,
): T {
  const { method, params } = request;
  const isForce = params.takeover !== undefined && params.name === "victim";
  if (method !== "break" && !isForce) return request;
  return { ...request, params: { ...params, name: method === "break" ? "nobody" : "a" } };
}

type Page = {
  locks: { name: string; waiters: unknown[]; waitersOmitted?: number }[];
  more?: boolean;
};

/** Runs a test beside a session that holds a lock; afterwards that one still does, and no descriptor is left. */
async function withBystander(
  t: TestContext,
  body: (agent: AgentProcess) => Promise<void>,
): Promise<void> {
  await using agent = await startAgent();
  await using bystander = await startBystander(agent);
  const { descriptors } = readUsage(agent.pid);
  await body(agent);
  await bystander.check();
  await until(() => readUsage(agent.pid).descriptors <= descriptors + 4, {
    what: "the end of the descriptors",
  });
  assert.deepEqual(agent.events.all.filter(({ event }) => event === "internal-error"), []);
  t.diagnostic(`slowest ping of the bystander: ${bystander.slowestPingMs.toFixed(1)} ms`);
}

/** As fc.assert, with the seed said even when all is well. */
async function check<T>(
  t: TestContext,
  values: fc.Arbitrary<T>,
  numRuns: number,
  property: (value: T) => Promise<void>,
): Promise<void> {
  const seed = Date.now() % 2 ** 31;
  t.diagnostic(`seed ${seed}`);
  await fc.assert(fc.asyncProperty(values, property), { seed, numRuns });
}

async function answerTo(client: RpcClient, id: unknown): Promise<Record<string, unknown>> {
  return await client.messages.waitFor((m) => m.method === undefined && m.id === id, {
    what: `the answer to ${id}`,
  });
}

function codeOf({ error }: Record<string, unknown>): unknown {
  return (error as { data: { code: string } } | undefined)?.data.code;
}

function request(method: string, params: string, id = "1"): string {
  return `{"jsonrpc":"2.0","id":${id},"method":"${method}","params":${params}}`;
}

function pingOf(bytes: number): string {
  const padded = (length: number) =>
    JSON.stringify({ jsonrpc: "2.0", id: 7, method: "ping", unknown: "x".repeat(length) }) + "\n";
  return padded(bytes - padded(0).length);
}

function* piecesOf(bytes: Buffer, sizes: number[]): Generator<Buffer> {
  for (let start = 0, turn = 0; start < bytes.length; turn++) {
    const size = sizes[turn % sizes.length]!;
    yield bytes.subarray(start, start + size);
    start += size;
  }
}
