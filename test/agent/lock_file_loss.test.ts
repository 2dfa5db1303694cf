import assert from "node:assert/strict";
import { renameSync, rmSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { isAlive } from "../support/processes.ts";
import { lockPath } from "../support/shell_lock.ts";

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
    await until(() => !isAlive(holderPid as number), { what: "the end of the holder" });
    assert.ok(
      (await client.request("claim", { name: "deploy" })).token as number > (token as number),
    );
  });
}

test("a lock whose whole folder is removed is lost at the next heartbeat at the latest", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  await client.request("claim", { name: "deploy" });
  rmSync(agent.dirs.lockDir, { recursive: true });
  await client.request("ping");
  assert.equal((await client.notification("lost")).params.reason, "lock-file-replaced");
});

test("only the lock whose file was replaced is lost", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  for (const name of ["one", "two"]) await client.request("claim", { name });
  unlinkSync(lockPath(agent.dirs.lockDir, "one"));
  assert.equal((await client.notification("lost")).params.name, "one");
  assert.equal((await client.request("release", { name: "two" })).name, "two");
});

test("truncating or writing the file of a held lock harms nothing", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  await client.request("claim", { name: "deploy" });
  const path = lockPath(agent.dirs.lockDir, "deploy");
  writeFileSync(path, "garbage");
  truncateSync(path);
  // A later loss proves that the earlier events were looked at.
  await client.request("claim", { name: "other" });
  unlinkSync(lockPath(agent.dirs.lockDir, "other"));
  assert.equal((await client.notification("lost")).params.name, "other");
  assert.deepEqual(await client.request("ping"), {});
  assert.equal((await flock(path)).kind, "contended");
});
