// Measures what docs/architecture.md promises of speed and size, as ratios made in one run on one machine.
//
//     npm run bench [-- --json] [-- --only REGEX]
//
// --only measures the parts whose names match, such as "claims" or "bounds".

import { parseArgs } from "node:util";

import { complain, say } from "../build/output.ts";
import { whyNoAgent } from "../test/support/agent_process.ts";
import { requires } from "../test/support/requires.ts";
import { describeMachine } from "./machine.ts";
import { type Part, PARTS } from "./parts.ts";
import { isMet, ratioOf, renderReport } from "./report.ts";
import { makeWorld, type World } from "./world.ts";

const only = readOnly();
const isJson = process.argv.includes("--json");
const stop = new AbortController();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(name, () => stop.abort(new Error(`stopped by ${name}`)));
}

const missing = whyNoAgent() ?? requires("sshd", "ssh-keygen", "bash", "flock", "python3");
const cleanUp: (() => Promise<unknown>)[] = [];
try {
  if (missing !== undefined) throw new Error(`Cannot measure: this machine ${missing}`);
  const world = await makeWorld(cleanUp, stop.signal);
  // What is measured may have died of the same signal, and then never answers.
  await Promise.race([measureAll(world), aborted(stop.signal)]);
} catch (error) {
  complain(error instanceof Error ? error.message : String(error));
  process.exitCode = stop.signal.aborted ? 130 : 1;
} finally {
  for (const tidy of cleanUp.reverse()) await tidy().catch(() => {});
}

async function measureAll(world: World): Promise<void> {
  const machine = describeMachine();
  const parts: Part[] = [];
  for (const [name, measure] of PARTS) {
    if (!only.test(name)) continue;
    tell(name);
    parts.push(await measure(world, stop.signal, cleanUp));
  }
  if (parts.length === 0) throw new Error(`Cannot measure: no part has a name like ${only.source}`);
  const rows = parts.flatMap((part) => part.rows ?? []);
  const facts = parts.flatMap((part) => part.facts ?? []);
  const notes = parts.flatMap((part) => part.notes ?? []);
  if (!isJson) return say(renderReport(machine, rows, facts, notes));
  const judged = rows.map((row) => ({ ...row, ratio: ratioOf(row), isMet: isMet(row) }));
  const times = Object.assign({}, ...parts.map((part) => part.times ?? {}));
  const residents = parts.find((part) => part.residents !== undefined)?.residents;
  say(JSON.stringify({ machine, rows: judged, facts, residents, times }, null, 2));
}

function readOnly(): RegExp {
  const { values } = parseArgs({
    options: { only: { type: "string" }, json: { type: "boolean" } },
  });
  return new RegExp(values.only ?? "");
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason));
  });
}

function tell(what: string): void {
  if (!isJson) complain(`measuring ${what}`);
}
