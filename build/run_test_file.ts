import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { REPORTER_BUNDLE } from "./bundle_tests.ts";
import type { TestRun } from "./test_plan.ts";
import { parseJunit, parseRecordLines, type TestRecord } from "./test_record.ts";
import { findBun, findDeno } from "./tools.ts";

/** How files are run. */
export type RunForm = {
  /** A file that takes longer hangs: it is killed and has failed. */
  readonly fileLimitMs: number;
  /** Added to the environment of the tests. */
  readonly env: Readonly<Record<string, string>>;
  /** Called now and then while a file runs, with the number of its tests that have ended. */
  readonly onProgress?: (run: TestRun, ended: number, tookMs: number) => void;
};

/** The gate's: no file takes this long in it, and a hang is told within the limit of a whole run. */
export const SHORT_FORM: RunForm = { fileLimitMs: 300_000, env: {} };

const PROGRESS_MS = 60_000;

/** What one run of one file came to. */
export type FileOutcome = {
  readonly records: readonly TestRecord[];
  /** What tests told with `t.diagnostic`, in its order; nothing on other runtimes than Node. */
  readonly told: readonly string[];
  /** Everything that the tests printed. */
  readonly printed: string;
  readonly tookMs: number;
};

/**
 * Runs one test file to its end.
 *
 * A file that ran no test, was ended by a signal, or failed beside its tests has a failed record that
 * says so: no file can pass by doing nothing.
 *
 * @param onNode What the same file came to on Node, for a run on another runtime: it knows why tests
 *   were skipped, and which have to run at all.
 */
export async function runTestFile(
  run: TestRun,
  onNode: readonly TestRecord[],
  signal: AbortSignal,
  form: RunForm = SHORT_FORM,
): Promise<FileOutcome> {
  const began = performance.now();
  const folder = mkdtempSync(join(tmpdir(), "sshlock-report-"));
  const reportFile = join(folder, "report");
  const progress = setInterval(() => {
    form.onProgress?.(run, countRecords(reportFile), performance.now() - began);
  }, PROGRESS_MS);
  const { ending, printed } = await execute(run, reportFile, signal, form);
  clearInterval(progress);
  const report = readReport(reportFile);
  rmSync(folder, { recursive: true });
  const { records, told } = run.runtime === "node"
    ? parseRecordLines(report)
    : { records: parseJunit(report, onNode), told: [] };
  const objections = [
    objectTo(ending, records, form),
    ...(run.runtime === "node" ? [] : missing(records, onNode)),
  ];
  for (const error of objections) {
    if (error !== undefined) records.push({ kind: "failed", name: "(the file itself)", error });
  }
  return { records, told, printed, tookMs: performance.now() - began };
}

type Ending = { code: number | null; signal: string | null; timedOut: boolean };

function objectTo(
  ending: Ending,
  records: readonly TestRecord[],
  { fileLimitMs }: RunForm,
): string | undefined {
  if (ending.timedOut) return `It did not end within ${fileLimitMs / 1000} s and was killed`;
  if (ending.signal !== null) return `It was ended by ${ending.signal}`;
  if (records.length === 0) return `It ran no test (exit code ${ending.code})`;
  if (ending.code !== 0 && !records.some(({ kind }) => kind === "failed")) {
    return `All its tests passed, but its exit code is ${ending.code}`;
  }
  return undefined;
}

// `deno test` reports success for a file that throws between two node:test calls. Deno and Bun list
// parts of a test differently, so a name is there when it, its whole or a part of it is.
function missing(records: readonly TestRecord[], onNode: readonly TestRecord[]): string[] {
  const isThere = (name: string) =>
    records.some((each) =>
      each.name === name || name.startsWith(`${each.name} > `) || each.name.startsWith(`${name} > `)
    );
  return onNode.filter(({ name }) => !isThere(name))
    .map(({ name }) => `It did not run the test that Node ran: ${name}`);
}

async function execute(
  run: TestRun,
  reportFile: string,
  signal: AbortSignal,
  form: RunForm,
): Promise<{ ending: Ending; printed: string }> {
  const [command, ...args] = commandLine(run, reportFile, form);
  // A process group of its own, so that a hanging test ends with all that it started.
  const child = spawn(command, args, {
    detached: true,
    env: { ...environment(run), ...form.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const chunks: Buffer[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  }
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    killGroup(child.pid);
  }, form.fileLimitMs);
  const onAbort = () => killGroup(child.pid);
  signal.addEventListener("abort", onAbort);
  try {
    const ending = await new Promise<Ending>((settle, reject) => {
      child.on("error", reject);
      // "exit", not "close": a daemon that a test left behind may keep the pipes open.
      child.on("exit", (code, name) => setTimeout(settle, 20, { code, signal: name, timedOut }));
    });
    return { ending, printed: Buffer.concat(chunks).toString() };
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
    child.stdout.destroy();
    child.stderr.destroy();
  }
}

function killGroup(leader: number | undefined): void {
  try {
    if (leader !== undefined) process.kill(-leader, "SIGKILL");
  } catch {
    // The whole group has ended meanwhile.
  }
}

function commandLine(
  { runtime, bundle }: TestRun,
  reportFile: string,
  { fileLimitMs }: RunForm,
): [string, ...string[]] {
  if (runtime === "deno") {
    const flags = ["-A", "--no-check", "--quiet", `--junit-path=${reportFile}`];
    return [findDeno(), "test", ...flags, bundle.program];
  }
  if (runtime === "bun") {
    // Bun's own limit of 5 s a test would be another one than on Node and Deno.
    const flags = [`--timeout=${fileLimitMs}`, "--reporter=junit"];
    return [findBun(), "test", ...flags, `--reporter-outfile=${reportFile}`, `./${bundle.program}`];
  }
  return [
    process.execPath,
    "--enable-source-maps",
    `--test-reporter=./${REPORTER_BUNDLE}`,
    `--test-reporter-destination=${reportFile}`,
    bundle.program,
  ];
}

function environment({ agent }: TestRun): NodeJS.ProcessEnv {
  const command = agent === undefined ? {} : { SSHLOCK_TEST_AGENT: JSON.stringify(agent.command) };
  return { ...process.env, NO_COLOR: "1", ...command };
}

/** Of a file that still runs; only on Node is its report written as it goes. */
function countRecords(path: string): number {
  return parseRecordLines(readReport(path)).records.length;
}

function readReport(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // it ended before it could write one
  }
}
