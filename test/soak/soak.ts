/**
 * The long forms of the tests, one after the other, to their ends whatever fails:
 * `npm run test:soak -- [PART...] [--minutes N] [--seed S]`.
 */
import { spawn } from "node:child_process";
import { complain, say } from "../../build/output.ts";
import type { RunForm } from "../../build/run_test_file.ts";
import { runTests } from "../../build/run_tests.ts";
import { installMissingPackages } from "../../build/system_packages.ts";
import { addResults, closingLine, noResults, type Results } from "../../build/test_results.ts";
import { HISTORY, type Part } from "./parts.ts";
import { readSoakArguments, soakUsage, SoakUsageError } from "./soak_arguments.ts";

/** A hang is told as one after hours: a loaded machine may take one for 200 kills at each point. */
const FILE_LIMIT_MS = 4 * 3_600_000;

/** Bad usage, as the programs have it. */
const BAD_USAGE = 125;

const stop = new AbortController();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(name, () => stop.abort(name));
}

try {
  const order = readSoakArguments(process.argv.slice(2));
  if (order.kind === "help") say(soakUsage());
  else process.exitCode = await soak(order.parts, order.historyArgs) ? 0 : 1;
} catch (error) {
  if (!(error instanceof SoakUsageError)) throw error;
  complain(`${error.message}\n\n${soakUsage()}`);
  process.exitCode = BAD_USAGE;
}

/** @returns Whether all is well. */
async function soak(parts: readonly Part[], historyArgs: readonly string[]): Promise<boolean> {
  installMissingPackages();
  const sum = noResults();
  const summary: string[] = [];
  for (const [index, part] of parts.entries()) {
    if (stop.signal.aborted) break;
    say(`== ${part.name} (${index + 1} of ${parts.length}): ${part.what}`);
    const began = performance.now();
    const results = await runPart(part, historyArgs);
    addResults(sum, results);
    const line = `${part.name}: ${closingLine(results)} (${minutesSince(began)} min)`;
    summary.push(line);
    say(`== ${line}`);
  }
  if (stop.signal.aborted) {
    sum.failed++;
    complain(`FAIL stopped by ${stop.signal.reason}`);
  }
  say("");
  for (const { name, reason } of sum.skips) say(`skipped: ${name}: ${reason}`);
  for (const line of [...summary, closingLine(sum)]) say(line);
  return sum.failed === 0;
}

async function runPart(part: Part, historyArgs: readonly string[]): Promise<Results> {
  const results = noResults();
  try {
    if (part.name === HISTORY) addResults(results, await runHistories(historyArgs));
    for (const run of part.runs) {
      if (stop.signal.aborted) break;
      const { patterns } = run;
      const env = withOwn(run.env);
      for (const [name, value] of Object.entries(env)) say(`${name}=${value}`);
      addResults(results, await runTests(patterns, stop.signal, longForm(env)));
    }
  } catch (error) {
    results.failed++;
    complain(`FAIL ${error instanceof Error ? error.message : String(error)}`);
  }
  return results;
}

/** What the caller has set counts: `SSHLOCK_KILLS=50` makes a quicker soak. */
function withOwn(env: RunForm["env"]): RunForm["env"] {
  const entries = Object.entries(env).map(([name, value]) => [name, process.env[name] ?? value]);
  return Object.fromEntries(entries) as RunForm["env"];
}

function longForm(env: RunForm["env"]): RunForm {
  return {
    fileLimitMs: FILE_LIMIT_MS,
    env,
    onProgress: ({ label }, ended, tookMs) => {
      say(`     … ${label}: ${ended} tests have ended after ${Math.round(tookMs / 1000)} s`);
    },
  };
}

/** A process of its own: it runs workers of its own, and is ended as a whole. */
async function runHistories(args: readonly string[]): Promise<Results> {
  const command = ["build/run.mjs", "test/history/soak.ts", ...args];
  const child = spawn(process.execPath, command, {
    detached: true,
    stdio: ["ignore", "inherit", "inherit"],
  });
  const end = () => child.pid !== undefined && process.kill(-child.pid, "SIGTERM");
  stop.signal.addEventListener("abort", end);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", resolve);
  });
  stop.signal.removeEventListener("abort", end);
  return { ...noResults(), ...(code === 0 ? { passed: 1 } : { failed: 1 }) };
}

function minutesSince(began: number): string {
  return ((performance.now() - began) / 60_000).toFixed(1);
}
