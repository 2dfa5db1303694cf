import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { renameSync, rmSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { startCommand } from "../support/agent_command.ts";
import {
  type AgentProcess,
  endHolders,
  makeAgentDirs,
  startAgent,
} from "../support/agent_process.ts";
import { until, within } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { isAlive, signalPid } from "../support/processes.ts";
import { connectRpc, type RpcClient, type RpcError } from "../support/rpc_client.ts";
import { lockPath, shellLock } from "../support/shell_lock.ts";

const LONG_MS = 60_000;

const ATTACKS: [what: string, attack: (path: string) => void][] = [
  ["unlinked", unlinkSync],
  ["replaced by a rename over it", (path) => {
    writeFileSync(`${path}.new`, "");
    renameSync(`${path}.new`, path);
  }],
  ["moved away", (path) => renameSync(path, `${path}.old`)],
];

for (const [what, attack] of ATTACKS) {
  test(`a lock whose file is ${what} is lost, and its session is told why`, async () => {
    await using agent = await startAgent();
    await using client = await agent.client("a");
    const { token, holderPid } = await client.request("claim", { name: "deploy" });
    const path = lockPath(agent.dirs.lockDir, "deploy");
    attack(path);
    const { params } = await client.notification("lost");
    assert.deepEqual(params, {
      name: "deploy",
      token,
      reason: "lock-file-replaced",
      detail: `lock file ${path} was removed or replaced`,
    });
    const what = "the end of the holder";
    await until(() => !isAlive(holderPid as number), { what, deadlineMs: LONG_MS });
    await using next = (await startSession(agent, "b")).client;
    const granted = await next.request("claim", { name: "deploy", waitMs: 30_000 });
    assert.ok(granted.token as number > (token as number));
  });
}

test("a lock whose whole folder is removed is lost at the next heartbeat at the latest", async (t) => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  await client.request("claim", { name: "deploy" });
  const away = `${agent.dirs.lockDir}.away`;
  renameSync(agent.dirs.lockDir, away);
  t.after(async () => {
    // The agent may be ended before the session's end is over.
    await endHolders(away);
    rmSync(away, { recursive: true });
  });
  assert.deepEqual(await client.request("ping"), {});
  assert.equal((await client.notification("lost")).params.reason, "lock-file-replaced");
});

test("a replaced lock file ends the session that has the lock, and no other session", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  await using other = await agent.client("b");
  for (const name of ["one", "two"]) await client.request("claim", { name });
  await other.request("claim", { name: "three" });
  const path = lockPath(agent.dirs.lockDir, "one");
  unlinkSync(path);
  const losses = await Promise.all(["one", "two"].map((name) => lossOf(client, name)));
  for (const { reason, detail } of losses) {
    assert.equal(reason, "lock-file-replaced");
    assert.match(String(detail), new RegExp(`^lock file ${path} was`));
  }
  await within(client.closed, { what: "the end of the connection" });
  assert.equal((await other.request("release", { name: "three" })).name, "three");
});

for (const shared of [false, true]) {
  const mode = shared ? "shared" : "exclusive";

  test(`nobody gets a replaced lock beside what its sessions have left (${mode})`, async () => {
    await using agent = await startAgent();
    await using first = await startHolding(agent, "x", { shared });
    await using second = await startHolding(agent, "x", { shared });
    const holders = [first, second];
    const left = holders.map(({ left }) => left);
    const path = lockPath(agent.dirs.lockDir, "x");
    unlinkSync(path);
    for (const { client } of holders) {
      assert.equal((await lossOf(client, "x")).reason, "lock-file-replaced");
    }
    await using next = (await startSession(agent, "next")).client;
    // Not even who would have joined it before.
    await using same = (await startSession(agent, "same")).client;
    const claims = [next, same].map(async (client) => {
      const params = { name: "x", waitMs: LONG_MS, purpose: "next" };
      const { token } = await client.request("claim", params, LONG_MS);
      assert.deepEqual(left.filter(isAlive), [], "granted beside what was left");
      await client.request("release", { name: "x" });
      return token as number;
    });
    for (const claim of claims) claim.catch(() => {}); // what fails before it is the cause
    assert.equal((await flock(path)).kind, "contended", "nor does flock(1) get the new file");
    assert.equal((await shellLock(agent.dirs.lockDir, "x")).kind, "contended");
    const { locks } = await next.request<Status>("status", { name: "x" });
    assert.deepEqual(locks[0]!.holders.map(({ kind, state }) => [kind, state]), [
      ["own", "ending"],
      ["own", "ending"],
    ]);
    for (const pid of left) signalPid(pid, "SIGKILL");
    const tokens = await Promise.all(claims);
    assert.ok(Math.min(...tokens) > first.token);
    const free = await flock(path);
    assert.equal(free.kind, "held");
    if (free.kind === "held") await free.holder.end();
  });
}

test("who has the new file before the agent keeps it, and the next claim waits for both", async () => {
  await using agent = await startAgent();
  const { dirs } = agent;
  // A program of its own: what these tests start is below their sessions' root.
  await using run = startCommand(dirs, ["run", "x", "sh", "-c", "echo up; exec cat"]);
  await run.out.waitFor((line) => line === "up");
  const path = lockPath(dirs.lockDir, "x");
  writeFileSync(`${path}.new`, "");
  const first = await flock(`${path}.new`);
  assert.ok(first.kind === "held");
  renameSync(`${path}.new`, path);
  await using next = (await startSession(agent, "next")).client;
  await agent.events.waitFor(({ event }) => event === "session-ended");
  let isGranted = false;
  const granted = next.request("claim", { name: "x", waitMs: LONG_MS }, LONG_MS)
    .then(() => isGranted = true);
  granted.catch(() => {}); // what fails before it is the cause
  await next.notification("queued");
  assert.equal(isGranted, false);
  await first.holder.end();
  await granted;
  assert.equal((await run.end).code, 93);
});

for (const [what, attack] of [ATTACKS[0]!, ATTACKS[2]!]) {
  test(`a lock whose file was ${what} while no agent ran is its session's until that has ended`, async () => {
    await using made = await makeAgentDirs();
    const before = await startAgent({ dirs: made.dirs });
    await using holding = await startHolding(before, "x", { owner: "me" });
    const { left, secret } = holding;
    await before.kill();
    const path = lockPath(made.dirs.lockDir, "x");
    attack(path);
    await using agent = await startAgent({ dirs: made.dirs });
    assert.equal((await flock(path)).kind, "contended", "the agent has the new file");
    await using same = (await startSession(agent, "me")).client;
    const refused = await same.request("claim", { name: "x" }).then(() => undefined, (e) => e);
    assert.equal((refused as RpcError | undefined)?.data?.code, "contended");
    await using back = await connectRpc(made.dirs.socket);
    const hello = { protocol: 1, resume: secret, session: "process" };
    assert.deepEqual((await back.request<{ locks: unknown[] }>("hello", hello)).locks, []);
    assert.equal((await lossOf(back, "x")).reason, "lock-file-replaced");
    const granted = same.request("claim", { name: "x", waitMs: LONG_MS }, LONG_MS);
    await same.notification("queued");
    assert.ok(isAlive(left));
    signalPid(left, "SIGKILL");
    await granted;
  });
}

test("truncating or writing the file of a held lock harms nothing", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  await client.request("claim", { name: "deploy" });
  const path = lockPath(agent.dirs.lockDir, "deploy");
  writeFileSync(path, "garbage");
  truncateSync(path);
  // A later loss proves that the earlier events were looked at.
  await using other = await agent.client("b");
  await other.request("claim", { name: "other" });
  unlinkSync(lockPath(agent.dirs.lockDir, "other"));
  assert.equal((await other.notification("lost")).params.name, "other");
  assert.deepEqual(await client.request("ping"), {});
  assert.ok(!client.messages.all.some(({ method }) => method === "lost"));
  assert.equal((await flock(path)).kind, "contended");
});

/**
 * A session that has a lock, and a process that it waits for. It ends nothing: what these tests start
 * is below the root of each of their sessions.
 */
async function startHolding(
  agent: AgentProcess,
  name: string,
  { shared = false, owner = "same" } = {},
): Promise<Holding> {
  const { client, session } = await startSession(agent, owner);
  const { token } = await client.request("claim", { name, shared, onEnd: "drain" });
  const env = { ...process.env, SSHLOCK_SESSION: session.id };
  const child = spawn("sleep", ["1000"], { env, stdio: "ignore" });
  const [left, { secret }] = [child.pid!, session];
  const dispose = async () => {
    signalPid(left, "SIGKILL");
    await client.destroy();
  };
  return { client, left, token: token as number, secret, [Symbol.asyncDispose]: dispose };
}

/** It may wait for as long as it takes, on however busy a host. */
async function startSession(agent: AgentProcess, owner: string) {
  const client = await connectRpc(agent.dirs.socket);
  const who = { protocol: 1, client: "test", owner, session: "process", silenceMs: 0 };
  const { session } = await client.request<Hello>("hello", who);
  return { client, session };
}

interface Hello {
  session: { id: string; secret: string };
}

interface Holding extends AsyncDisposable {
  client: RpcClient;
  left: number;
  token: number;
  secret: string;
}

async function lossOf(client: RpcClient, name: string): Promise<Record<string, unknown>> {
  const loss = await client.messages.waitFor(({ method, params }) =>
    method === "lost" && (params as { name: string }).name === name
  );
  return loss.params as Record<string, unknown>;
}

interface Status {
  locks: { holders: { kind: string; state: string }[] }[];
}
