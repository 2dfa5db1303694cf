import { parseArgs } from "node:util";
import { HISTORY, type Part, PARTS } from "./parts.ts";

/** What a soak is asked for. */
export type SoakOrder =
  | { readonly kind: "help" }
  /** `historyArgs` are the options of `test/history/soak.ts`, checked. */
  | { readonly kind: "run"; readonly parts: readonly Part[]; readonly historyArgs: string[] };

/** Arguments that no soak can be made of; the message says why. */
export class SoakUsageError extends Error {
  override name = "SoakUsageError";
}

const MAX_SEED = 2 ** 32 - 1;

/**
 * Reads `[PART...] [--minutes N] [--seed S]`. No part: all of them, in their order.
 *
 * @throws {SoakUsageError} A part or an option that there is not, or a value that makes no sense.
 */
export function readSoakArguments(args: readonly string[]): SoakOrder {
  const { values, positionals } = parse(args);
  if (values.help === true) return { kind: "help" };
  const unknown = positionals.find((name) => !PARTS.some((part) => part.name === name));
  if (unknown !== undefined) throw new SoakUsageError(`There is no part "${unknown}"`);
  const parts = PARTS.filter(({ name }) => positionals.length === 0 || positionals.includes(name));
  const { minutes, seed } = values;
  if (minutes !== undefined && !(Number(minutes) > 0 && Number(minutes) < Infinity)) {
    throw new SoakUsageError(`--minutes ${minutes} is no time`);
  }
  if (seed !== undefined && !(/^\d+$/.test(seed) && Number(seed) <= MAX_SEED)) {
    throw new SoakUsageError(`--seed ${seed} is no whole number up to ${MAX_SEED}`);
  }
  const historyArgs = [
    ...(minutes === undefined ? [] : ["--minutes", minutes]),
    ...(seed === undefined ? [] : ["--seed", seed]),
  ];
  if (historyArgs.length > 0 && !parts.some(({ name }) => name === HISTORY)) {
    throw new SoakUsageError(`${historyArgs[0]} is for the part "${HISTORY}", which is not run`);
  }
  return { kind: "run", parts, historyArgs };
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        minutes: { type: "string" },
        seed: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    throw new SoakUsageError((error as Error).message);
  }
}

/** How the soak is called. */
export function soakUsage(): string {
  const width = Math.max(...PARTS.map(({ name }) => name.length));
  return [
    "Usage: npm run test:soak -- [PART...] [--minutes N] [--seed S]",
    "",
    "Runs the long forms of the tests one after the other; no PART: all.",
    "",
    ...PARTS.map(({ name, what }) => `  ${name.padEnd(width)}  ${what}`),
    "",
    "  --minutes N  how long histories are run, 10 unless told",
    "  --seed S     the seed of the first history, a random one unless told",
  ].join("\n");
}
