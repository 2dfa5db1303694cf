import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { test } from "node:test";
import { startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { isAlive, processesWithLockIn, readArgv } from "../support/processes.ts";
import type { RpcClient, RpcError } from "../support/rpc_client.ts";
import { lockPath } from "../support/shell_lock.ts";

test("a claim answers with a token and the pid of the process that holds the flock", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  const claim = await client.request<Claim>("claim", { name: "deploy", purpose: "x" });
  assert.equal(claim.name, "deploy");
  assert.equal(claim.shared, false);
  assert.ok(Number.isSafeInteger(claim.token) && claim.token > 0);
  assert.ok(claim.waitedMs >= 0);
  assert.deepEqual(readArgv(claim.holderPid), ["session-lock-deploy", "infinity"]);
  assert.deepEqual(processesWithLockIn(agent.dirs.lockDir), [claim.holderPid]);
  assert.equal(statSync(lockPath(agent.dirs.lockDir, "deploy")).mode & 0o777, 0o660);
});

test("a release tells the token and how long it was held, and the next token is higher", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  const first = await client.request<Claim>("claim", { name: "deploy" });
  const released = await client.request("release", { name: "deploy" });
  assert.equal(released.name, "deploy");
  assert.equal(released.token, first.token);
  assert.ok((released.heldMs as number) >= 0);
  assert.equal(await flockOnce(agent.dirs.lockDir, "deploy"), "held");
  const second = await client.request<Claim>("claim", { name: "deploy" });
  assert.ok(second.token > first.token);
  await until(() => !isAlive(first.holderPid), { what: "the end of the first holder" });
});

test("one session holds several locks, and two names do not contend", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  const claims = await Promise.all([
    a.request<Claim>("claim", { name: "one" }),
    a.request<Claim>("claim", { name: "two" }),
    b.request<Claim>("claim", { name: "three" }),
  ]);
  assert.equal(new Set(claims.map(({ token }) => token)).size, 3);
  assert.equal(new Set(claims.map(({ holderPid }) => holderPid)).size, 3);
});

test("a second claim of a session on its own lock is refused as already-claimed", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  await client.request("claim", { name: "deploy" });
  await assert.rejects(
    client.request("claim", { name: "deploy", waitMs: 1_000 }),
    (error: RpcError) => {
      assert.equal(error.data.code, "already-claimed");
      assert.equal(error.data.name, "deploy");
      return true;
    },
  );
});

test("a release of what the session does not have is refused as not-held", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  await a.request("claim", { name: "deploy" });
  for (const name of ["deploy", "other"]) {
    await assert.rejects(
      b.request("release", { name }),
      (error: RpcError) => error.data.code === "not-held" && error.data.name === name,
    );
  }
  assert.equal(await flockOnce(agent.dirs.lockDir, "deploy"), "contended");
});

for (const way of ["close", "destroy"] as const) {
  test(`the end of the connection (${way}) frees the lock and ends the holder`, async () => {
    await using agent = await startAgent();
    const client: RpcClient = await agent.client("a");
    const { holderPid } = await client.request<Claim>("claim", { name: "deploy" });
    await client[way]();
    await agent.events.waitFor((event) => event.event === "lock-ended");
    await until(() => !isAlive(holderPid), { what: "the end of the holder" });
    assert.equal(await flockOnce(agent.dirs.lockDir, "deploy"), "held");
  });
}

interface Claim extends Record<string, unknown> {
  name: string;
  token: number;
  holderPid: number;
  shared: boolean;
  waitedMs: number;
}

async function flockOnce(lockDir: string, name: string): Promise<string> {
  const outcome = await flock(lockPath(lockDir, name));
  if (outcome.kind === "held") await outcome.holder.end();
  return outcome.kind;
}
