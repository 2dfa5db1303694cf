import assert from "node:assert/strict";
import { renameSync, unlinkSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { flock } from "../support/flock.ts";
import { killAndConfirm } from "../support/processes.ts";
import { lockPath, shellLock } from "../support/shell_lock.ts";
import { assertFound, examine } from "./doctor_findings.ts";

test("doctor finds a lock of the shell protocol that has outlived its session", async () => {
  await using agent = await startAgent();
  const outcome = await shellLock(agent.dirs.lockDir, "x");
  assert.ok(outcome.kind === "locked");
  const { lock } = outcome;
  try {
    const during = await examine(agent.dirs);
    assertFound(during, "holder", "ok", /^1 lock is held: somebody answers for each$/);
    await lock.endShell();
    const after = await examine(agent.dirs);
    const says = new RegExp(`^Lock "x" has leaked: its holder \\(pid ${lock.holderPid}\\)`);
    assertFound(after, "leaked-holder", "warn", says);
  } finally {
    await killAndConfirm(lock.holderPid);
  }
});

test("doctor names a holder that no record explains", async () => {
  await using made = await makeAgentDirs();
  const outcome = await flock(lockPath(made.dirs.lockDir, "x"));
  assert.ok(outcome.kind === "held");
  const says = new RegExp(`^Lock "x" is held by pid ${outcome.holder.pid} \\(flock .*no record`);
  assertFound(await examine(made.dirs), "holder", "warn", says);
  await outcome.holder.end();
});

for (const how of ["removed", "replaced"] as const) {
  test(`doctor finds a holder whose lock file was ${how}`, async () => {
    await using made = await makeAgentDirs();
    const outcome = await shellLock(made.dirs.lockDir, "x");
    assert.ok(outcome.kind === "locked");
    const path = lockPath(made.dirs.lockDir, "x");
    if (how === "removed") unlinkSync(path);
    else {
      writeFileSync(`${path}.new`, "");
      renameSync(`${path}.new`, path);
    }
    const says = new RegExp(`was ${how} under its holder \\(pid ${outcome.lock.holderPid}, `);
    try {
      assertFound(await examine(made.dirs), "lost-lock-file", "fail", says);
    } finally {
      await outcome.lock.end();
    }
  });
}
