import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { before, describe, test } from "node:test";
import { buildAgent } from "../support/agent_build.ts";
import { requires } from "../support/requires.ts";
import { Chain, type Ending, type Scenario } from "./chain.ts";
import { FROM_OUTSIDE, SCENARIOS } from "./scenarios.ts";
import { NO_COPIES, WITHOUT } from "./without.ts";

/** How often agents are killed in each scenario, and how often one is stopped and goes on. */
const ROUNDS: Record<Ending, number> = {
  kill: Number(process.env.SSHLOCK_KILLS ?? 200),
  stop: Number(process.env.SSHLOCK_STOPS ?? 20),
};

/** A slow machine does less, unless the numbers above were asked for: so much each in any case. */
const MIN_ROUNDS: Record<Ending, number> = {
  kill: process.env.SSHLOCK_KILLS === undefined ? 5 : ROUNDS.kill,
  stop: process.env.SSHLOCK_STOPS === undefined ? 2 : ROUNDS.stop,
};

/** How long an agent is stopped in the rounds beside the others, in milliseconds. */
const STOPPED_MS = Number(process.env.SSHLOCK_STOPPED_MS ?? 30_000);

/** In how many scenarios: such a round mostly waits, so it costs no time beside the others. */
const LONG_STOPS = Number(process.env.SSHLOCK_LONG_STOPS ?? 8);

/** Agents that are stopped for long at once: when they go on, all sessions have to resume at once. */
const STOPPED_AT_ONCE = 8;

/** The runtime of the agents. */
const ENGINE = process.env.SSHLOCK_CRASH_ENGINE === "deno" ? "deno" : "binary";

/** Rounds of which one has to fail, and not only because it is slow. */
const DOOMED = { sliceMs: 0, minRounds: 4, patienceMs: 3_000 };

/** For all scenarios together, in milliseconds. */
const BUDGET_MS: Record<Ending, number> = { kill: 35_000, stop: 8_000 };

/** Chains that run at once: more than the processors, because each waits for its processes. */
const CONCURRENCY = Math.min(16, 2 * availableParallelism());

const skip = requires("flock", "socat", `dist/sshlock-holder-${process.arch}`);

let build: string[] = [];
const done: Record<Ending, number> = { kill: 0, stop: 0 };
const LONG_STOPPED = spread(SCENARIOS, LONG_STOPS);
let longStops: Promise<unknown>[] = [];

before(async () => {
  if (skip !== undefined) return;
  build = await buildAgent({ name: "crash", crashPoints: true, engine: ENGINE });
  longStops = startAll(LONG_STOPPED, STOPPED_AT_ONCE, stopForLong);
});

test("each crash point has a scenario", () => {
  const source = readFileSync("agent/crash_points.ts", "utf8");
  const points = [...source.matchAll(/\| "([a-z.-]+)"/g)].map(([, point]) => point as string);
  const tested = SCENARIOS.map(({ crashAt }) => crashAt?.(2).split(":")[0]);
  assert.deepEqual([...new Set(tested)].sort(), points.sort());
});

describe("an agent that is killed leaves every lock with its session:", {
  concurrency: CONCURRENCY,
}, () => runAll([...SCENARIOS, ...FROM_OUTSIDE], "kill"));

describe("an agent that was stopped and goes on beside its successor does nothing:", {
  concurrency: CONCURRENCY,
}, () => runAll(SCENARIOS, "stop"));

describe("what keeps locks with their sessions is needed:", { concurrency: CONCURRENCY }, () => {
  if (ROUNDS.kill === 0) return;
  for (const [index, { what, scenario, patch, andWithoutCopies }] of WITHOUT.entries()) {
    test(`without ${what}, ${scenario} is caught`, { skip }, async () => {
      const found = SCENARIOS.find(({ name }) => name === scenario);
      assert.ok(found !== undefined);
      const argv = await buildAgent({
        name: `crash-without-${index}`,
        patches: andWithoutCopies ? [patch, NO_COPIES] : [patch],
        ...{ crashPoints: true, engine: ENGINE },
      });
      const caught = await runChain(argv, found, "kill", DOOMED).catch((error: Error) => error);
      assert.ok(caught instanceof Error, "no round failed");
    });
  }
});

describe("an agent that was stopped for longer than the silence limit does nothing either:", () => {
  for (const [index, { name }] of LONG_STOPPED.entries()) {
    test(name, { skip }, async () => void await longStops[index]);
  }
});

test("all crashes were made", { skip }, (t) => {
  t.diagnostic(
    `${done.kill} kills, ${done.stop} stops and ${LONG_STOPPED.length} stops for ` +
      `${STOPPED_MS / 1000} s in ${SCENARIOS.length} scenarios (agent: ${ENGINE})`,
  );
});

function runAll(scenarios: readonly Scenario[], ending: Ending): void {
  if (ROUNDS[ending] === 0) return;
  const sliceMs = BUDGET_MS[ending] * CONCURRENCY / scenarios.length;
  for (const scenario of scenarios) {
    test(scenario.name, { skip }, async () => {
      const rounds = await runChain(build, scenario, ending, { sliceMs });
      done[ending] += rounds;
    });
  }
}

/** @returns How many rounds there were. */
async function runChain(
  argv: string[],
  scenario: Scenario,
  ending: Ending,
  { sliceMs, minRounds = MIN_ROUNDS[ending], patienceMs }: {
    sliceMs: number;
    minRounds?: number;
    patienceMs?: number;
  },
): Promise<number> {
  const began = performance.now();
  await using chain = await Chain.start(argv, scenario, ending, { patienceMs });
  let rounds = 0;
  for (; rounds < ROUNDS[ending]; rounds++) {
    if (rounds >= minRounds && performance.now() - began > sliceMs) break;
    await chain.round();
  }
  await chain.finish();
  return rounds;
}

/** One round, at a step and an instant of its own in each scenario. */
async function stopForLong(scenario: Scenario, index: number): Promise<void> {
  const options = { stoppedMs: STOPPED_MS, roundsBefore: index };
  await using chain = await Chain.start(build, scenario, "stop", options);
  await chain.round();
  await chain.finish();
}

/** Starts work on each item, on so many at once; whoever awaits one of the answers hears of its failure. */
function startAll<T>(
  items: readonly T[],
  atOnce: number,
  work: (item: T, index: number) => Promise<void>,
): Promise<void>[] {
  const all: Promise<void>[] = [];
  for (const [index, item] of items.entries()) {
    const turn = Promise.allSettled(index < atOnce ? [] : [all[index - atOnce]]);
    const done = turn.then(() => work(item, index));
    done.catch(() => {}); // told by its own test
    all.push(done);
  }
  return all;
}

/** So many of them, from all over the list. */
function spread<T>(items: readonly T[], count: number): T[] {
  const step = items.length / Math.min(count, items.length);
  return items.filter((_, index) => count > 0 && Math.floor(index % step) === 0);
}
