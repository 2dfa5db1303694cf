import assert from "node:assert/strict";
import { test } from "node:test";
import { startAgent } from "../support/agent_process.ts";
import { within } from "../support/events.ts";
import { connectRpc } from "../support/rpc_client.ts";

const HELLO = { jsonrpc: "2.0", id: 1, method: "hello", params: { protocol: 1, owner: "a" } };
const CLAIM = { jsonrpc: "2.0", id: 2, method: "claim", params: { name: "deploy" } };

test("hello and claim in one write are both answered", async () => {
  await using agent = await startAgent();
  await using client = await connectRpc(agent.dirs.socket);
  client.send(HELLO, CLAIM);
  const answer = await client.messages.waitFor((message) => message.id === 2);
  assert.ok((answer.result as { token: number }).token > 0);
  assert.deepEqual(client.messages.all.map(({ id }) => id), [1, 2]);
});

test("a request that comes a byte at a time is answered", async () => {
  await using agent = await startAgent();
  await using client = await connectRpc(agent.dirs.socket);
  for (const byte of Buffer.from(`${JSON.stringify(HELLO)}\n`)) {
    await new Promise((sent) => client.stream.write(Uint8Array.of(byte), sent));
  }
  await client.messages.waitFor((message) => message.id === 1);
});

test("a client that has closed its side still gets its answers", async () => {
  await using agent = await startAgent();
  await using client = await connectRpc(agent.dirs.socket);
  client.send(HELLO, { jsonrpc: "2.0", id: 2, method: "ping" });
  client.stream.end();
  await within(client.closed, { what: "the end of the connection" });
  assert.deepEqual(client.messages.all.map(({ id }) => id), [1, 2]);
});

test("a half-closed client that claimed does not keep the lock", async () => {
  await using agent = await startAgent();
  await using client = await connectRpc(agent.dirs.socket);
  client.send(HELLO, CLAIM);
  client.stream.end();
  await within(client.closed, { what: "the end of the connection" });
  await using other = await agent.client("b");
  assert.ok((await other.request("claim", { name: "deploy", waitMs: 10_000 })).token);
});

test("a line that is too long ends the connection with an error that says why", async () => {
  await using agent = await startAgent();
  await using client = await connectRpc(agent.dirs.socket);
  await using other = await agent.client("other");
  client.sendRaw(`"${"x".repeat(70_000)}`);
  assert.deepEqual(await lastError(client), {
    code: -32700,
    message: "Cannot read message: line is longer than 65536 bytes",
    data: { code: "line-too-long", maxLineBytes: 65536 },
  });
  assert.deepEqual(await other.request("ping"), {});
});

for (
  const [what, bytes] of [
    ["no JSON", "{nonsense}\n"],
    ["no UTF-8", Uint8Array.of(0x22, 0xff, 0xfe, 0x22, 0x0a)],
  ] as const
) {
  test(`a line that is ${what} ends the connection with an error that says why`, async () => {
    await using agent = await startAgent();
    await using client = await connectRpc(agent.dirs.socket);
    client.send(HELLO, CLAIM);
    await client.messages.waitFor((message) => message.id === 2);
    client.sendRaw(bytes);
    const error = await lastError(client);
    assert.equal(error.code, -32700);
    assert.equal(error.data.code, "parse-error");
    assert.match(error.message, /^Cannot read message: line is not JSON in UTF-8/);
    await agent.events.waitFor(({ event }) => event === "lock-ended");
  });
}

type Client = Awaited<ReturnType<typeof connectRpc>>;

async function lastError(client: Client) {
  await within(client.closed, { what: "the end of the connection" });
  const last = client.messages.all.at(-1) as { id: null; error: Failure };
  assert.equal(last.id, null);
  return last.error;
}

interface Failure {
  code: number;
  message: string;
  data: Record<string, unknown>;
}
