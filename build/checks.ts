import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";

import { checkDocs } from "./check_docs.ts";
import { checkImports, LAYERS } from "./check_imports.ts";
import { complain, say } from "./output.ts";
import { runTool } from "./run_tool.ts";
import { readSources } from "./source_files.ts";
import { noResults, type Results } from "./test_results.ts";
import { findDeno, findTsc } from "./tools.ts";

type Outcome = { kind: "fine" } | { kind: "skipped"; reason: string };

const FINE: Outcome = { kind: "fine" };

/** Runs every check of the gate that is no test, and prints a line for each. */
export async function runChecks(): Promise<Results> {
  const checks: [string, () => Outcome][] = [
    ["format (deno fmt)", () => ended(findDeno(), ["fmt", "--check"])],
    ["lint (deno lint)", () => ended(findDeno(), ["lint", "--quiet"])],
    ["types (tsc)", () => ended(process.execPath, [findTsc(), "-p", "tsconfig.json"])],
    ["import direction", () => without(checkImports(readSources(LAYERS)))],
    ["documented exports", () => without(checkDocs(readSources([...LAYERS, "build"])))],
    ["shell scripts (shellcheck)", checkShell],
  ];
  const results = noResults();
  for (const [name, check] of checks) {
    try {
      const outcome = check();
      if (outcome.kind === "skipped") results.skips.push({ name, reason: outcome.reason });
      else results.passed++;
      say(outcome.kind === "skipped" ? `skip ${name}: ${outcome.reason}` : `ok   ${name}`);
    } catch (error) {
      results.failed++;
      complain(`FAIL ${name}\n${error instanceof Error ? error.message : String(error)}`);
    }
  }
  results.skipped = results.skips.length;
  return results;
}

function ended(command: string, args: string[]): Outcome {
  runTool(command, args);
  return FINE;
}

function without(findings: readonly string[]): Outcome {
  if (findings.length > 0) throw new Error(findings.join("\n"));
  return FINE;
}

function checkShell(): Outcome {
  if (spawnSync("shellcheck", ["--version"]).status !== 0) {
    return { kind: "skipped", reason: "shellcheck is not installed" };
  }
  return ended("shellcheck", ["install.sh", ".ci/run"].filter((path) => existsSync(path)));
}
