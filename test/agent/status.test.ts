import assert from "node:assert/strict";
import { test } from "node:test";
import { runCommand } from "../support/agent_command.ts";
import { type AgentDirs, makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { flock } from "../support/flock.ts";
import { lockPath, shellLock } from "../support/shell_lock.ts";

test("without its agent the kernel tells the same names and holders", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  await a.request("claim", { name: "one", purpose: "x" });
  for (const client of [a, b]) await client.request("claim", { name: "two", shared: true });
  const foreign = await flock(lockPath(agent.dirs.lockDir, "three"));
  assert.ok(foreign.kind === "held");
  const live = await status(agent.dirs);
  assert.equal(live.source, "agent");
  await agent.kill();
  const dead = await status(agent.dirs);
  assert.equal(dead.source, "kernel");
  assert.deepEqual(namesAndPids(dead), namesAndPids(live));
  assert.deepEqual(dead.locks.map(({ name }) => name), ["one", "three", "two"]);
  assert.equal(dead.locks[0]?.holders[0]?.record?.owner, "a");
  await foreign.holder.end();
});

test("an agent's status never says less than the kernel", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  const shell = await shellLock(agent.dirs.lockDir, "deploy");
  assert.ok(shell.kind === "locked");
  const { locks } = await client.request<Status>("status");
  assert.deepEqual(locks.map(({ name, holders }) => [name, holders[0]?.pid]), [
    ["deploy", shell.lock.holderPid],
  ]);
  await shell.lock.end();
  assert.deepEqual((await client.request<Status>("status")).locks, []);
});

test("one lock is shown by its name, free or not", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  await client.request("claim", { name: "one" });
  assert.deepEqual((await client.request<Status>("status", { name: "two" })).locks, [
    { name: "two", holders: [], waiters: [] },
  ]);
  const { stdout } = await runCommand(agent.dirs, ["status", "two"]);
  assert.equal(stdout, "two is free.\n");
  const refused = await runCommand(agent.dirs, ["status", "../two"]);
  assert.equal(refused.code, 125);
  assert.match(
    refused.stderr,
    /^sshlock-agent: Cannot use "\.\.\/two": it is no lock name\nhint: /,
  );
});

test("list shows holders and waiters in columns, --no-legend leaves headings and totals out", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("respirate/42");
  await using b = await agent.client("b");
  const { holderPid, token } = await a.request("claim", { name: "deploy", purpose: "repair db1" });
  b.request("claim", { name: "deploy", waitMs: 60_000 }).catch(() => {});
  await b.notification("queued");
  const { stdout, code } = await runCommand(agent.dirs, ["list"]);
  assert.equal(code, 0);
  const [headings, holder, waiter, , total] = stdout.split("\n");
  assert.match(headings!, /^NAME +OWNER +USER +PID +FOR +TOKEN +MODE +WHY$/);
  const row =
    `^deploy +respirate/42 +\\S+ +${holderPid} +\\d+ m?s +${token} +exclusive +repair db1$`;
  assert.match(holder!, new RegExp(row));
  assert.match(waiter!, /^deploy +b +\d+ +- +\d+ m?s +- +waits$/);
  assert.equal(total, "1 lock listed.");
  const bare = await runCommand(agent.dirs, ["list", "--no-legend"]);
  assert.equal(bare.stdout.split("\n").length, 3);
  assert.match(bare.stdout, /^deploy .*\ndeploy .*\n$/);
  const called = await runCommand(agent.dirs, []);
  assert.match(called.stdout, /^NAME .*\n.*respirate\/42/);
});

test("without an agent an empty list says where it comes from", async () => {
  await using made = await makeAgentDirs();
  const { stdout, code } = await runCommand(made.dirs, ["list"]);
  assert.equal(code, 0);
  assert.equal(stdout, "No locks are held. No agent runs: this is what the kernel says.\n");
});

interface Status extends Record<string, unknown> {
  source: string;
  locks: {
    name: string;
    holders: { pid?: number; holderPid?: number; record?: { owner: string } }[];
    waiters: unknown[];
  }[];
}

async function status(dirs: AgentDirs): Promise<Status> {
  const { stdout, code } = await runCommand(dirs, ["status", "--json"]);
  assert.equal(code, 0);
  return JSON.parse(stdout);
}

function namesAndPids({ locks }: Status): [string, (number | undefined)[]][] {
  return locks.map(({ name, holders }) => [
    name,
    holders.map(({ pid, holderPid }) => holderPid ?? pid).sort(),
  ]);
}
