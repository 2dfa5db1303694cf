// Measures what docs/architecture.md promises of speed and size, as ratios made in one run on one machine.
//
//     npm run bench [-- --json]

import { complain, say } from "../build/output.ts";
import { whyNoAgent } from "../test/support/agent_process.ts";
import { requires } from "../test/support/requires.ts";
import { measureClaims } from "./claims.ts";
import { measureCommands } from "./commands.ts";
import { measureHandover } from "./handover.ts";
import { describeMachine } from "./machine.ts";
import { isMet, ratioOf, renderReport, residentFacts, type Row } from "./report.ts";
import { measureResidents } from "./resident.ts";
import type { Times } from "./sampling.ts";
import { makeWorld, type World } from "./world.ts";

/** How often each thing is measured: enough for a 99th percentile, in a minute and a half in all. */
const ROUNDS = { claims: 500, handover: 500, commands: 150 };

const isJson = process.argv.includes("--json");
const stop = new AbortController();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(name, () => stop.abort(new Error(`stopped by ${name}`)));
}

const missing = whyNoAgent() ?? requires("sshd", "ssh-keygen", "bash", "flock");
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
  const { signal } = stop;
  tell("claims over SSH");
  const claims = await measureClaims(world, ROUNDS.claims, signal);
  tell("handover");
  const handover = await measureHandover(world, ROUNDS.handover, signal);
  tell("commands");
  const commands = await measureCommands(world, ROUNDS.commands, signal);
  tell("an idle agent and a held lock");
  const residents = await measureResidents(world, cleanUp, signal);
  const rows = makeRows(claims, handover, commands);
  const facts = residentFacts(residents);
  if (isJson) {
    const judged = rows.map((row) => ({ ...row, ratio: ratioOf(row), isMet: isMet(row) }));
    const times = { claims, handover, commands };
    return say(JSON.stringify({ machine, rows: judged, facts, residents, times }, null, 2));
  }
  const notes = [
    `a later claim on the same channel: p50 ${ms(claims.again)}, p99 ${ms(claims.again, 99)}`,
    `a request and its answer at the agent's socket (part of each grant): p50 ${ms(handover.ping)}`,
    `starting /bin/true, which is part of each command above: p50 ${ms(commands.true)}`,
  ];
  say(renderReport(machine, rows, facts, notes));
}

function makeRows(
  claims: Awaited<ReturnType<typeof measureClaims>>,
  handover: Awaited<ReturnType<typeof measureHandover>>,
  commands: Awaited<ReturnType<typeof measureCommands>>,
): Row[] {
  const { shell, claim, echo, contended } = claims;
  const row = (
    [what, ours]: [string, Times],
    [against, theirs]: [string, Times],
    direction: Row["direction"],
    goal: number,
  ): Row => ({ what, against, ours, theirs, direction, goal });
  return [
    row(
      ["claim on an open connection", claim],
      ["shell protocol over the same", shell],
      "faster",
      5,
    ),
    row(["claim on an open connection", claim], ["echo over a fresh channel", echo], "slower", 2.5),
    row(["contended answer", contended], ["echo over a fresh channel", echo], "slower", 1.3),
    row(
      ["release to next grant", handover.grant],
      ["flock(2) handover", handover.flock],
      "slower",
      3,
    ),
    row(
      ["sshlock-agent run NAME true", commands.run],
      ["flock FILE true", commands.flock],
      "slower",
      8,
    ),
    row(["sshlock-agent version", commands.version], ["bash -c :", commands.bash], "slower", 5),
  ];
}

function ms(times: Times, percentile: 50 | 99 = 50): string {
  return `${(percentile === 50 ? times.p50Ms : times.p99Ms).toFixed(3)} ms`;
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
