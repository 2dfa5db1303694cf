import { bundleTests } from "./bundle_tests.ts";
import { complain, say } from "./output.ts";
import { type FileOutcome, type RunForm, runTestFile, SHORT_FORM } from "./run_test_file.ts";
import { planTests, type TestRun } from "./test_plan.ts";
import { addResults, noResults, type Results } from "./test_results.ts";

// The machines that this runs on have two cores or more.
const CONCURRENT_FILES = 2;

// A whole run below this has lost tests on the way, however green the rest is.
const MINIMUM_TESTS = 200;

/**
 * Bundles and runs the tests, and prints a line for each file and each failure in full.
 *
 * @param patterns Keeps the files (with their notes, as they are printed) that match one; none: all.
 * @param signal Ends the running tests with all that they started.
 * @param form How they are run; unless told, as in the gate.
 */
export async function runTests(
  patterns: readonly string[],
  signal: AbortSignal,
  form: RunForm = SHORT_FORM,
): Promise<Results> {
  const plan = planTests(await bundleTests(), patterns);
  const total = plan.together.length + plan.alone.length;
  say(`${total} test runs`);
  const run: Run = { total, ended: 0, results: noResults(), onNode: new Map(), signal, form };
  // Node first: what it ran and skipped is the measure for the other runtimes.
  await runAll(run, plan.together.filter(({ runtime }) => runtime === "node"), CONCURRENT_FILES);
  await runAll(run, plan.together.filter(({ runtime }) => runtime !== "node"), CONCURRENT_FILES);
  await runAll(run, plan.alone, 1);
  objectToTooFew(run.results, patterns.length === 0 ? MINIMUM_TESTS : 1);
  return run.results;
}

type Run = {
  readonly total: number;
  ended: number;
  readonly results: Results;
  /** By file: what it came to on Node. */
  readonly onNode: Map<string, FileOutcome["records"]>;
  readonly signal: AbortSignal;
  readonly form: RunForm;
};

async function runAll(run: Run, queue: readonly TestRun[], workers: number): Promise<void> {
  const waiting = [...queue];
  const work = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      if (run.signal.aborted) return;
      const onNode = next.runtime === "node" ? [] : run.onNode.get(next.bundle.name) ?? [];
      const outcome = await runTestFile(next, onNode, run.signal, run.form);
      if (next.runtime === "node") run.onNode.set(next.bundle.name, outcome.records);
      run.ended++;
      report(run, next, outcome);
    }
  };
  await Promise.all(Array.from({ length: workers }, work));
}

function report(run: Run, { label }: TestRun, outcome: FileOutcome): void {
  const results = noResults();
  for (const record of outcome.records) {
    results[record.kind]++;
    if (record.kind === "skipped") {
      results.skips.push({ name: `${label}: ${record.name}`, reason: record.reason });
    }
  }
  addResults(run.results, results);
  const verdict = results.failed > 0 ? "FAIL" : results.passed > 0 ? "ok  " : "skip";
  const counts = [
    `${results.passed} passed`,
    ...(results.failed > 0 ? [`${results.failed} failed`] : []),
    ...(results.skipped > 0 ? [`${results.skipped} skipped`] : []),
  ].join(", ");
  const seconds = (outcome.tookMs / 1000).toFixed(1);
  say(`${verdict} ${run.ended}/${run.total} ${label}: ${counts} (${seconds} s)`);
  for (const line of outcome.told.flatMap((text) => text.split("\n"))) say(`       ${line}`);
  if (results.failed > 0) explain(label, outcome);
}

function explain(label: string, { records, printed }: FileOutcome): void {
  for (const record of records) {
    if (record.kind === "failed") complain(`---- ${label}: ${record.name}\n${record.error}`);
  }
  if (printed.trim() !== "") complain(`---- ${label}: printed\n${printed.trimEnd()}`);
  complain("----");
}

function objectToTooFew(results: Results, minimum: number): void {
  const executed = results.passed + results.failed;
  if (executed >= minimum) return;
  results.failed++;
  complain(`FAIL ${executed} tests were executed, at least ${minimum} are due`);
}
