/**
 * `doctor`: checks this host for all that breaks locks, and says how to mend it.
 *
 * @module
 */

import process from "node:process";
import { runAllChecks } from "../doctor/all_checks.ts";
import type { Finding, FindingState } from "../doctor/finding.ts";
import { printJson, printLine } from "../output.ts";
import type { PathOptions } from "../paths.ts";
import { EXIT } from "./exit_codes.ts";

/** Columns of the report: what every terminal has. */
const WIDTH = 80;

/** Columns of the state in front of each finding. */
const INDENT = 6;

const COLOURS: Record<FindingState, number> = { ok: 32, warn: 33, fail: 31, skip: 2 };

/**
 * Runs all checks and prints what they found.
 *
 * @param options Where agent and locks are.
 * @param show How to print, and which config file to look at.
 * @returns `EXIT.problems` when anything is broken.
 */
export async function runDoctor(
  options: PathOptions,
  show: { json: boolean; config: string | undefined },
): Promise<number> {
  const findings = await runAllChecks(options, show.config);
  const counts = countStates(findings);
  if (show.json) printJson({ counts, findings });
  else printFindings(findings, counts);
  return counts.fail === 0 ? EXIT.ok : EXIT.problems;
}

type Counts = Record<FindingState, number>;

function countStates(findings: Finding[]): Counts {
  const counts: Counts = { ok: 0, warn: 0, fail: 0, skip: 0 };
  for (const { state } of findings) counts[state]++;
  return counts;
}

function printFindings(findings: Finding[], counts: Counts): void {
  for (const { state, what, hint } of findings) {
    const label = colour(state.padEnd(INDENT), COLOURS[state]);
    const [first, ...rest] = wrap(what, WIDTH - INDENT);
    printLine(`${label}${first}`);
    const hints = hint === undefined ? [] : wrap(`hint: ${hint}`, WIDTH - INDENT);
    for (const line of [...rest, ...hints]) printLine(" ".repeat(INDENT) + line);
  }
  const { ok, warn, fail, skip } = counts;
  printLine(`\n${ok} ok, ${warn} to look at, ${fail} broken, ${skip} skipped`);
}

/** Breaks at spaces; a path that is longer than a line stays whole, so that it can be copied. */
function wrap(text: string, width: number): string[] {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines.at(-1)!;
    if (line === "") lines[lines.length - 1] = word;
    else if (line.length + 1 + word.length <= width) lines[lines.length - 1] = `${line} ${word}`;
    else lines.push(word);
  }
  return lines;
}

function colour(text: string, code: number): string {
  const isWanted = process.stdout.isTTY === true && (process.env.NO_COLOR ?? "") === "";
  return isWanted ? `\x1b[${code}m${text}\x1b[0m` : text;
}
