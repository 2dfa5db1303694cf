import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import test from "node:test";
import { whyNoAgent } from "../support/agent_process.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { requires } from "../support/requires.ts";
import { isDeno } from "./broken_agent.ts";
import { describeRun, fullRun, objectionsTo } from "./full_run.ts";
import { whyNoNetwork } from "./network.ts";

const seed = Number(process.env.SSHLOCK_HISTORY_SEED ?? randomInt(2 ** 32));

/** The long run is the shipped program's; the other runtime shows that it is not another one. */
const operations = Number(
  process.env.SSHLOCK_HISTORY_OPERATIONS ?? (isDeno() ? 5_000 : 100_000),
);

test("a history of all kinds of clients under all faults breaks no promise", {
  skip: whyNoAgent() ?? requires("bash", "flock", "sleep", "perl"),
  timeout: 295_000,
}, async (t) => {
  for (const missing of [whyNoSshd(), whyNoNetwork()]) {
    if (missing !== undefined) t.diagnostic(`without controllers or partitions: ${missing}`);
  }
  t.diagnostic(`seed ${seed} (SSHLOCK_HISTORY_SEED)`);
  // A slow machine does less, and says so; one in ten shows that nothing hangs.
  const length = { operations, atLeast: operations / 10, minMs: 5_000, deadlineMs: 200_000 };
  const result = await fullRun(seed, length, () => {});
  const lines = describeRun(seed, result);
  for (const line of lines) t.diagnostic(line);
  process.stdout.write(`${lines.join("\n")}\n`);
  assert.deepEqual(objectionsTo(result), [], `seed ${seed}`);
});
