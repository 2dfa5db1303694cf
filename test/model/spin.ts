import { execFile } from "node:child_process";
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { requires } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";

const run = promisify(execFile);

/** The model. */
export const MODEL = "test/model/lock.pml";

/** Memory that one run may take, in megabytes: two may run beside other tests. */
const MEMORY_LIMIT_MB = 2_000;

/** How much of what happens in a run; what is not named is 0. `lock.pml` says what each is. */
export type Limits = Partial<
  Record<"CRASHES" | "KILLS" | "UNLINKS" | "CUTS" | "PEERS" | "CLAIMS" | "JOINERS", number>
>;

/** A run of a checker. */
export interface CheckOptions {
  limits: Limits;
  /** The number of the defence that is taken out; 0, unless told: none. */
  missing?: number;
  /** How sessions end: 1, by a release; 2, by death or silence; 3, unless told: both. */
  endings?: number;
  /** The formula that is checked, by a checker of formulas. */
  formula?: string;
}

/** What a run has found. */
export interface Verdict {
  /** Different states. */
  states: number;
  errors: number;
  /** The assertion that fails, by its variable; `formula` where a formula does. */
  violated: string | undefined;
  /** Steps from the start to the violation, or to the deepest state. */
  depth: number;
  /** All that the checker has printed. */
  output: string;
}

/** A checker that spin(1) has made of the model. */
export interface Checker extends AsyncDisposable {
  check(options: CheckOptions): Promise<Verdict>;
}

/** Why no model can be checked here, for a test's `skip`. */
export function whyNoSpin(): string | undefined {
  return requires("spin", "gcc", "/usr/include/stdio.h", MODEL);
}

/**
 * Makes a checker.
 *
 * @param what `assertions` searches breadth first, so a counterexample is as short as any;
 * `formulas` searches for runs that break an LTL formula, among those that are fair to each process.
 */
export async function makeChecker(what: "assertions" | "formulas"): Promise<Checker> {
  const dir = await makeTempDir("model");
  const { path: cwd } = dir;
  await copyFile(MODEL, join(cwd, "lock.pml"));
  const [define, flags] = what === "assertions"
    ? [[], ["-DSAFETY", "-DBFS"]]
    // Twelve processes and the claim: NFAIR * 32 / 8 - 2 of them have a counter of fairness.
    : [["-DLTL"], ["-DNFAIR=4"]];
  await run("spin", [...define, "-a", "lock.pml"], { cwd });
  await run("gcc", ["-w", "-O2", `-DMEMLIM=${MEMORY_LIMIT_MB}`, ...flags, "-o", "pan", "pan.c"], {
    cwd,
  });
  return {
    check: (options) => check(cwd, options),
    [Symbol.asyncDispose]: dir.remove,
  };
}

async function check(cwd: string, options: CheckOptions): Promise<Verdict> {
  const { limits, missing = 0, endings = 3, formula } = options;
  const none = { CRASHES: 0, KILLS: 0, UNLINKS: 0, CUTS: 0, PEERS: 0, CLAIMS: 0, JOINERS: 0 };
  const values = { ...none, ...limits, MISSING: missing, ENDINGS: endings };
  const env = Object.fromEntries(Object.entries(values).map(([name, n]) => [name, String(n)]));
  const args = formula === undefined ? ["-w22"] : ["-w20", "-m100000", "-a", "-f", "-N", formula];
  const { stdout } = await run(join(cwd, "pan"), args, { cwd, env });
  return readVerdict(stdout);
}

/** Reads what a checker prints; one that gave up or was told to leave something out is an error. */
function readVerdict(output: string): Verdict {
  const counts = /depth reached (\d+), errors: (\d+)/.exec(output);
  const states = /^\s*(\d+) states, stored/m.exec(output);
  const isWhole = !/Search not completed|max search depth too small|out of memory/.test(output);
  const errors = Number(counts?.[2]);
  if (counts === null || states === null || (errors === 0 && !isWhole)) {
    throw new Error(`The checker did not finish:\n${output}`);
  }
  const failed = /assertion violated\s+(\S.*) \(at depth (\d+)\)/.exec(output) ??
    /(acceptance cycle) \(at depth (\d+)\)/.exec(output);
  const isAssertion = /^\w+$/.test(failed?.[1] ?? "");
  return {
    states: Number(states[1]),
    errors,
    violated: failed === null ? undefined : isAssertion ? failed[1] : "formula",
    depth: Number(failed?.[2] ?? counts[1]),
    output,
  };
}
