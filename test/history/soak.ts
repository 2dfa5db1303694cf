/**
 * The long form of the history test: runs of two minutes, one after the other, each with a seed of
 * its own, until the time is over or something is found.
 *
 * `npm run test:soak -- history --minutes N --seed S`; by default 10 minutes and a random seed.
 */
import { randomInt } from "node:crypto";
import { parseArgs } from "node:util";
import { describeRun, fullRun, objectionsTo } from "./full_run.ts";

/** A history is kept in memory, so a run is no longer than this. */
const runMs = 120_000;

const { values } = parseArgs({
  options: { minutes: { type: "string", default: "10" }, seed: { type: "string" } },
});
const first = Number(values.seed ?? randomInt(2 ** 32));
const endsAt = performance.now() + Number(values.minutes) * 60_000;
const say = (line: string) => void process.stdout.write(`${line}\n`);

let found = 0;
for (let seed = first; performance.now() < endsAt && found === 0; seed++) {
  const minMs = Math.min(runMs, endsAt - performance.now());
  say(`run with seed ${seed}`);
  const result = await fullRun(seed, { operations: 0, minMs, deadlineMs: Infinity }, () => {});
  for (const line of [...describeRun(seed, result), ...objectionsTo(result)]) say(`  ${line}`);
  found = objectionsTo(result).length;
}
say(found === 0 ? "nothing found" : `found ${found} objections`);
process.exitCode = found === 0 ? 0 : 1;
