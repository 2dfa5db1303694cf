import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { type CheckOptions, type Limits, makeChecker, MODEL, whyNoSpin } from "./spin.ts";
import { VARIANTS } from "./variants.ts";

const MIN_STATES = 1_000_000;

/** All faults with one claim, then two by two with claims that contend and join. */
const RUNS: Limits[] = [
  { CRASHES: 1, KILLS: 1, UNLINKS: 1, CUTS: 1, PEERS: 1, CLAIMS: 1 },
  { CRASHES: 1, KILLS: 1, CLAIMS: 2, JOINERS: 1 },
  { CRASHES: 1, UNLINKS: 1, CLAIMS: 2, JOINERS: 1 },
  { CRASHES: 1, CUTS: 1, CLAIMS: 2, JOINERS: 1 },
  { CRASHES: 1, PEERS: 1, CLAIMS: 2 },
  { CRASHES: 2, CLAIMS: 2 },
  { CLAIMS: 3, JOINERS: 1 },
];

/** An LTL formula of the model, a run in which it holds, and one without a defence in which it does not. */
interface Formula {
  formula: string;
  sound: Omit<CheckOptions, "formula">;
  broken: Omit<CheckOptions, "formula">;
}

const FORMULAS: Formula[] = [
  {
    formula: "exclusion",
    sound: { limits: { CLAIMS: 2, CRASHES: 1 } },
    broken: { limits: { CLAIMS: 2 }, missing: 1 },
  },
  {
    formula: "survival",
    sound: { limits: { CLAIMS: 1, CRASHES: 1, KILLS: 1, PEERS: 1, CUTS: 1 } },
    broken: { limits: { CLAIMS: 1, KILLS: 1 }, missing: 2 },
  },
  {
    formula: "answered",
    sound: { limits: { CLAIMS: 2, CRASHES: 1 }, endings: 1 },
    broken: { limits: { CLAIMS: 2, CRASHES: 1 }, endings: 1, missing: 6 },
  },
  {
    formula: "freed",
    sound: { limits: { CLAIMS: 1, CRASHES: 1, KILLS: 1, PEERS: 1 } },
    broken: { limits: { CLAIMS: 1, CRASHES: 1 }, missing: 6 },
  },
  {
    formula: "told",
    sound: { limits: { CLAIMS: 2, UNLINKS: 1, CRASHES: 1, CUTS: 1 }, endings: 0 },
    broken: { limits: { CLAIMS: 1, UNLINKS: 1 }, endings: 0, missing: 13 },
  },
];

describe("the model", { skip: whyNoSpin() }, () => {
  test("keeps the promises in each state, and fails without each defence", async (t) => {
    await using checker = await makeChecker("assertions");
    let total = 0;
    for (const limits of RUNS) {
      const { states, errors, violated, depth } = await checker.check({ limits });
      t.diagnostic(`${states} states, ${depth} deep, errors: ${errors} (${describeRun(limits)})`);
      assert.equal(errors, 0, `${violated} fails with ${describeRun(limits)}`);
      total += states;
    }
    t.diagnostic(`${total} states in all`);
    assert.ok(total >= MIN_STATES, `only ${total} states`);
    for (const { missing, what, limits, violated } of VARIANTS) {
      const verdict = await checker.check({ limits, missing });
      t.diagnostic(`without ${what}: ${verdict.violated} fails after ${verdict.depth} steps`);
      assert.equal(verdict.violated, violated, `without ${what}`);
    }
  });

  test("keeps the promises in each fair run, and each formula can fail", async (t) => {
    await using checker = await makeChecker("formulas");
    for (const { formula, sound, broken } of FORMULAS) {
      const { states, errors } = await checker.check({ ...sound, formula });
      t.diagnostic(`${formula}: ${states} states, errors: ${errors}`);
      assert.equal(errors, 0, `${formula} fails`);
      const verdict = await checker.check({ ...broken, formula });
      assert.equal(verdict.violated, "formula", `${formula} without defence ${broken.missing}`);
    }
  });
});

test("docs/model.md has each variant with the promise it breaks, and each formula", () => {
  const docs = readFileSync("docs/model.md", "utf8");
  const model = readFileSync(MODEL, "utf8");
  for (const { missing, what, violated } of VARIANTS) {
    const row = docs.split("\n").find((line) => new RegExp(`^\\| +${missing} \\|`).test(line));
    assert.ok(row?.includes(what) && row.includes(`\`${violated}\``), `no row of ${what}`);
  }
  const formulas = [...model.matchAll(/^ltl (\w+)/gm)].map(([, name]) => name as string);
  assert.deepEqual(formulas, FORMULAS.map(({ formula }) => formula));
  for (const name of formulas) assert.ok(docs.includes(`\`${name}\``), `${name} is not described`);
});

function describeRun(limits: Limits): string {
  return Object.entries(limits).map(([name, n]) => `${n} ${name.toLowerCase()}`).join(", ");
}
