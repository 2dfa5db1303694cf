import assert from "node:assert/strict";
import { test } from "node:test";
import { type AgentProcess, startAgent } from "../support/agent_process.ts";
import { connectRpc, RpcError } from "../support/rpc_client.ts";
import type { RpcClient } from "../support/rpc_client.ts";

test("a claim before hello is refused, and the connection goes on", async () => {
  await using agent = await startAgent();
  await using client = await connectRpc(agent.dirs.socket);
  assert.equal((await refused(client, "claim", { name: "a" })).data.code, "hello-first");
  await client.request("hello", { protocol: 1 });
  assert.ok((await client.request("claim", { name: "a" })).token);
});

test("another protocol version is refused with both versions", async () => {
  await using agent = await startAgent();
  await using client = await connectRpc(agent.dirs.socket);
  const error = await refused(client, "hello", { protocol: 99, client: "new" });
  assert.equal(error.data.code, "protocol-mismatch");
  assert.equal(error.data.protocol, 1);
  assert.match(error.message, /^Cannot talk to new: it speaks protocol 99, agent .* speaks 1$/);
});

test("hello tells who is asked and how often to be heard", async () => {
  await using agent = await startAgent();
  await using client = await connectRpc(agent.dirs.socket);
  const hello = await client.request("hello", { protocol: 1, silenceMs: 3_000, unknown: "field" });
  assert.equal(hello.protocol, 1);
  assert.match(hello.owner as string, new RegExp(`^uid:${process.getuid!()}/[\\w-]+$`));
  assert.match(String(hello.pidNamespace), /^pid:\[\d+\]$/);
  assert.match(String(hello.bootId), /^[0-9a-f-]{36}$/);
  assert.deepEqual([hello.heartbeatMs, hello.giveUpMs, hello.silenceMs], [600, 2_000, 3_000]);
  assert.equal((await refused(client, "hello", { protocol: 1 })).data.code, "invalid-request");
});

test("an unknown method gets -32601", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  const error = await refused(client, "fly");
  assert.equal(error.code, -32601);
  assert.equal(error.data.code, "unknown-method");
});

for (const name of ["", "../x", "a/b", ".a", "a".repeat(101), "a b", "ä", 7, null, undefined]) {
  test(`the name ${JSON.stringify(name)?.slice(0, 20)} is refused as bad-name`, async () => {
    await using client = await sharedClient();
    for (const method of ["claim", "release"]) {
      const error = await refused(client, method, { name });
      assert.equal(error.data.code, "bad-name");
      assert.equal(error.code, -32602);
    }
  });
}

const BAD_PARAMS: [method: string, params: Record<string, unknown>, field: string][] = [
  ["claim", { name: "a", waitMs: -1 }, "waitMs"],
  ["claim", { name: "a", waitMs: "1" }, "waitMs"],
  ["claim", { name: "a", waitMs: 2 ** 31 }, "waitMs"],
  ["claim", { name: "a", shared: "yes" }, "shared"],
  ["claim", { name: "a", purpose: "" }, "purpose"],
  ["claim", { name: "a", purpose: "x".repeat(501) }, "purpose"],
  ["claim", { name: "a", purpose: "\u001b[2J" }, "purpose"],
  ["hello", { protocol: "1" }, "protocol"],
  ["hello", { protocol: 1, owner: "a\nb" }, "owner"],
  ["hello", { protocol: 1, silenceMs: {} }, "silenceMs"],
];

for (const [method, params, field] of BAD_PARAMS) {
  const shown = JSON.stringify(params[field]).slice(0, 20);
  test(`${method} with ${field} ${shown} is refused as bad-params`, async () => {
    await using client = await sharedClient();
    const error = await refused(client, method, params);
    assert.equal(error.data.code, "bad-params");
    assert.equal(error.data.field, field);
    assert.equal(error.code, -32602);
  });
}

test("params that are no object, and requests that are none, are answered with their id", async () => {
  await using client = await sharedClient();
  client.send({ jsonrpc: "2.0", id: "p", method: "ping", params: [1] });
  client.send({ id: "q", method: "ping" });
  client.send([1, 2]);
  const answers = [];
  for (const id of ["p", "q", null]) {
    const answer = await client.messages.waitFor((message) => message.id === id);
    answers.push((answer.error as { code: number }).code);
  }
  assert.deepEqual(answers, [-32602, -32600, -32600]);
  assert.deepEqual(await client.request("ping"), {});
});

let agent: AgentProcess | undefined;

test.after(() => agent?.stop());

async function sharedClient(): Promise<RpcClient> {
  agent ??= await startAgent();
  return await agent.client("a");
}

async function refused(
  client: RpcClient,
  method: string,
  params: Record<string, unknown> = {},
): Promise<RpcError> {
  const outcome = await client.request(method, params).catch((error: unknown) => error);
  assert.ok(outcome instanceof RpcError, `expected a refusal, got ${JSON.stringify(outcome)}`);
  return outcome;
}
