import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { whyNoAgent } from "../support/agent_process.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { requires, root } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import { findOut, isDeno, isMended } from "./broken_agent.ts";
import { type BrokenCase, bugs, defences, holderBug } from "./cases.ts";
import { sabotageHolder } from "./sabotage.ts";

const seed = Number(process.env.SSHLOCK_HISTORY_SEED ?? 1);

/** Runs until a bug has to have been found. */
const TRIES = 3;

/** Each runs once: every other one under either runtime, since the agent is the same program there. */
const ofThisRun = (_: BrokenCase, index: number) => (index % 2 === 1) === isDeno();

const missing = whyNoAgent() ?? requires("bash", "flock", "sleep", "perl");

// Three at a time: most of the time is waiting.
describe("the history checker finds out", { concurrency: 3 }, () => {
  for (const broken of bugs.filter(ofThisRun)) findsOut("an agent that", broken);
  for (const broken of defences.filter(ofThisRun)) findsOut("that a defence is gone:", broken);
});

const isX64 = process.arch === "x64" ? undefined : "the patch is for x86-64";

// It says nothing of the agent's runtime.
test("the history checker finds out a holder that does not call flock(2)", {
  skip: missing ?? isX64 ?? (isDeno() ? "runs with the compiled agent" : undefined),
  timeout: 120_000,
}, async (t) => {
  await using dir = await makeTempDir("sabotage");
  const { caughtBy, result } = await findOut(holderBug, seed, await sabotageHolder(dir.path));
  t.diagnostic(`${caughtBy} after ${result.verdict.operations} operations`);
  assert.equal(caughtBy, "overlap", `seed ${seed}`);
});

function findsOut(what: string, broken: BrokenCase): void {
  const needsSsh = (broken.crowd?.library ?? 0) > 0;
  const skip = missing ?? (needsSsh ? whyNoSshd() : undefined) ??
    (broken.needsRoot === true ? requires(root) : undefined);
  test(`${what} ${broken.name}`, { skip, timeout: TRIES * 110_000 }, async (t) => {
    let caughtBy: string | undefined;
    // What shows a bug is a matter of chance: a run in which nothing has shown it is followed by another.
    for (let tries = 0; tries < (isMended ? 1 : TRIES) && caughtBy === undefined; tries++) {
      const { result, ...found } = await findOut(broken, seed + tries);
      caughtBy = found.caughtBy;
      const { verdict: { operations }, elapsedMs } = result;
      t.diagnostic(`${caughtBy ?? "nothing"} after ${operations} operations, ${elapsedMs} ms`);
    }
    if (isMended) return assert.equal(caughtBy, undefined, `seed ${seed}: it is not broken`);
    assert.notEqual(caughtBy, undefined, `seed ${seed}: nothing has shown it`);
  });
}
