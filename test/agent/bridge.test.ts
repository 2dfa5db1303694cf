import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Duplex } from "node:stream";
import { test } from "node:test";
import { type RunningCommand, startCommand } from "../support/agent_command.ts";
import { makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { until, within } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { killAndConfirm, signalPid } from "../support/processes.ts";
import { RpcClient } from "../support/rpc_client.ts";
import { lockPath } from "../support/shell_lock.ts";

test("a bridge passes bytes both ways, and ends with its input, and the lock with it", async () => {
  await using agent = await startAgent();
  await using bridge = startCommand(agent.dirs, ["bridge"]);
  const client = clientOf(bridge);
  await client.request("hello", { protocol: 1, owner: "a" });
  const { holderPid } = await client.request("claim", { name: "deploy" });
  assert.ok(holderPid);
  bridge.child.stdin?.end();
  const ended = agent.events.waitFor(({ event }) => event === "lock-ended");
  assert.equal((await within(bridge.end, { what: "the end of the bridge" })).code, 0);
  await ended;
});

test("a bridge tells of its agent's end by ending", async () => {
  await using agent = await startAgent();
  await using bridge = startCommand(agent.dirs, ["bridge"]);
  const client = clientOf(bridge);
  await client.request("hello", { protocol: 1, owner: "a" });
  await agent.kill();
  const { signal } = await within(bridge.end, { what: "the end of the bridge" });
  assert.equal(signal, null);
});

test("a killed bridge frees the lock", async () => {
  await using agent = await startAgent();
  await using bridge = startCommand(agent.dirs, ["bridge"]);
  const client = clientOf(bridge);
  await client.request("hello", { protocol: 1, owner: "a" });
  await client.request("claim", { name: "deploy" });
  signalPid(bridge.pid, "SIGKILL");
  await agent.events.waitFor(({ event }) => event === "lock-ended");
  const free = await flock(lockPath(agent.dirs.lockDir, "deploy"));
  assert.ok(free.kind === "held");
  await free.holder.end();
});

test("a bridge starts an agent where none runs; two at once share one", async () => {
  await using made = await makeAgentDirs();
  const { dirs } = made;
  await using first = startCommand(dirs, ["bridge"]);
  await using second = startCommand(dirs, ["bridge"]);
  const [a, b] = [clientOf(first), clientOf(second)];
  try {
    await a.request("hello", { protocol: 1, owner: "a" });
    await b.request("hello", { protocol: 1, owner: "b" });
    await a.request("claim", { name: "deploy" });
    await assert.rejects(b.request("claim", { name: "deploy" }), /held by a /);
    for (const bridge of [first, second]) bridge.child.stdin?.end();
    assert.deepEqual((await Promise.all([first.end, second.end])).map(({ code }) => code), [0, 0]);
  } finally {
    await killAndConfirm(parseInt(readFileSync(join(dirs.runtimeDir, "agent.lock"), "utf8")));
  }
});

test("a bridge that can start no agent says so and exits 125", async () => {
  await using made = await makeAgentDirs();
  const dirs = { ...made.dirs, lockDir: join(made.dirs.lockDir, "missing") };
  await using bridge = startCommand(dirs, ["bridge"]);
  const { code, stderr } = await within(bridge.end, { what: "the end of the bridge" });
  assert.equal(code, 125);
  assert.match(stderr, /^sshlock-agent: Cannot reach an agent: .*no such socket.*\nhint: /);
  await until(() => !existsSync(dirs.socket), { what: "no socket" });
});

function clientOf({ child }: RunningCommand): RpcClient {
  return new RpcClient(Duplex.from({ readable: child.stdout!, writable: child.stdin! }));
}
