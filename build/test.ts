import { runChecks } from "./checks.ts";
import { complain, say } from "./output.ts";
import { runTool } from "./run_tool.ts";
import { runTests } from "./run_tests.ts";
import { installMissingPackages } from "./system_packages.ts";
import { addResults, closingLine, noResults } from "./test_results.ts";

// The gate: checks, build, tests. With name patterns, or --tests-only, the checks are left out; with
// --no-build the tests run on what dist/ has.
const flags = process.argv.slice(2).filter((word) => word.startsWith("--"));
const patterns = process.argv.slice(2).filter((word) => !word.startsWith("--"));
const known = ["--tests-only", "--no-build"];
const unknown = flags.find((flag) => !known.includes(flag));
if (unknown !== undefined) {
  if (unknown !== "--help") complain(`Unknown option ${unknown}`);
  say(`Usage: npm test [-- [${known.join("] [")}] [PATTERN...]]`);
  process.exit(unknown === "--help" ? 0 : 125);
}
const testsOnly = patterns.length > 0 || flags.includes("--tests-only");

const results = noResults();
const stop = new AbortController();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(name, () => stop.abort(name));
}

try {
  installMissingPackages();
  if (!testsOnly) addResults(results, await runChecks());
  if (!flags.includes("--no-build")) buildFirst();
  addResults(results, await runTests(patterns, stop.signal));
} catch (error) {
  results.failed++;
  complain(`FAIL ${error instanceof Error ? error.message : String(error)}`);
}
if (stop.signal.aborted) {
  results.failed++;
  complain(`FAIL stopped by ${stop.signal.reason}`);
}
for (const { name, reason } of results.skips) say(`skipped: ${name}: ${reason}`);
say(closingLine(results));
process.exitCode = results.failed === 0 ? 0 : 1;

function buildFirst(): void {
  say(runTool(process.execPath, ["build/run.mjs", "build/build.ts"]).trimEnd());
}
