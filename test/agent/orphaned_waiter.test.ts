import assert from "node:assert/strict";
import { test } from "node:test";
import { startCommand } from "../support/agent_command.ts";
import { makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { isAlive, processesWithLockIn } from "../support/processes.ts";
import { lockPath } from "../support/shell_lock.ts";

test("a holder that waits for a dead agent is ended by the next, one of a living run is not", async () => {
  await using made = await makeAgentDirs();
  const { dirs } = made;
  const foreign = await flock(lockPath(dirs.lockDir, "deploy"));
  assert.ok(foreign.kind === "held");
  const holders = () =>
    processesWithLockIn(dirs.lockDir).filter((pid) => pid !== foreign.holder.pid);
  await using run = startCommand(dirs, ["run", "deploy", "echo", "mine"]);
  const [ofRun] = await until(() => holders().length === 1 && holders(), { what: "a waiter" });
  const first = await startAgent({ dirs });
  const client = await first.client("a");
  client.request("claim", { name: "deploy", waitMs: 60_000 }).catch(() => {});
  await client.notification("queued");
  const [orphan] = holders().filter((pid) => pid !== ofRun);
  await first.kill();
  await using second = await startAgent({ dirs });
  const ended = await second.events.waitFor(({ event }) => event === "waiter-ended");
  assert.deepEqual([ended.pid, ended.name], [orphan, "deploy"]);
  await until(() => !isAlive(orphan!), { what: "the end of the waiter" });
  const left = await second.events.waitFor(({ event }) => event === "holder-unexplained");
  assert.equal(left.pid, ofRun);
  await foreign.holder.end();
  const { code, stdout } = await run.end;
  assert.deepEqual([code, stdout], [0, "mine\n"]);
});
