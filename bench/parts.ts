import { listPids } from "../agent/proc.ts";
import { boundFacts, measureBounds } from "./bounds.ts";
import { measureClaims } from "./claims.ts";
import { measureCommands } from "./commands.ts";
import { measureCrowd } from "./crowd.ts";
import { measureHandover } from "./handover.ts";
import { crowdFacts, type Fact, residentFacts, type Row } from "./report.ts";
import { measureResidents, type Residents } from "./resident.ts";
import type { Times } from "./sampling.ts";
import type { World } from "./world.ts";

/** How often each thing is measured: enough for a 99th percentile, in three minutes in all. */
const ROUNDS = { claims: 500, handover: 500, commands: 150, bounds: 100, crowd: 300 };

/** What one part of the bench has found. */
export interface Part {
  /** Ratios. */
  rows?: Row[];
  /** Figures with a limit. */
  facts?: Fact[];
  /** Lines for people. */
  notes?: string[];
  /** All times of it, for --json. */
  times?: Record<string, Times>;
  /** What processes cost that are just there, for --json. */
  residents?: Residents;
}

/** Measures one part; `cleanUp` takes what is to be done at the end, last things first. */
type Measure = (
  world: World,
  signal: AbortSignal,
  cleanUp: (() => Promise<unknown>)[],
) => Promise<Part>;

/** All parts of the bench by name, in their order. */
export const PARTS: [name: string, measure: Measure][] = [
  ["claims over SSH", async (world, signal) => {
    const times = await measureClaims(world, ROUNDS.claims, signal);
    const { shell, claim, echo, contended, again } = times;
    const ours = "claim on an open connection";
    const [theirs, limit] = ["shell protocol over the same", "echo over a fresh channel"];
    return {
      times,
      rows: [
        row([ours, claim], [theirs, shell], "faster", 5),
        row([ours, claim], [limit, echo], "slower", 2.5),
        row(["contended answer", contended], [limit, echo], "slower", 1.3),
      ],
      notes: [`a later claim on the same channel: p50 ${ms(again)}, p99 ${ms(again, 99)}`],
    };
  }],
  ["handover", async (world, signal) => {
    const times = await measureHandover(world, ROUNDS.handover, signal);
    const { grant, flock, ping } = times;
    return {
      times,
      rows: [row(["release to next grant", grant], ["flock(2) handover", flock], "slower", 3)],
      notes: [
        `a request and its answer at the agent's socket (part of each grant): p50 ${ms(ping)}`,
      ],
    };
  }],
  ["commands", async (world, signal) => {
    const times = await measureCommands(world, ROUNDS.commands, signal);
    const { run, flock, version, bash } = times;
    return {
      times,
      rows: [
        row(["sshlock-agent run NAME true", run], ["flock FILE true", flock], "slower", 8),
        row(["sshlock-agent version", version], ["bash -c :", bash], "slower", 5),
      ],
      notes: [`starting /bin/true, which is part of each command above: p50 ${ms(times.true)}`],
    };
  }],
  ["many locks and sessions", async (world, signal, cleanUp) => {
    const crowd = await measureCrowd(world, ROUNDS.crowd, cleanUp, signal);
    const { crowded, empty, whileListed } = crowd.times;
    const what = `claim beside ${crowd.locks} held locks`;
    return {
      times: crowd.times,
      rows: [row([what, crowded], ["claim with none held", empty], "slower", 2)],
      facts: crowdFacts(crowd),
      notes: [
        `a claim while all locks are listed: p50 ${ms(whileListed)}, p99 ${ms(whileListed, 99)}`,
        "each session is a process with a leftover, and tries again each 0.3 to 0.8 s to resume",
        ...(crowd.why === undefined ? [] : [crowd.why]),
      ],
    };
  }],
  ["bounds", async (world, signal, cleanUp) => {
    const times = await measureBounds(world, ROUNDS.bounds, cleanUp, signal);
    const processes = listPids().length;
    return {
      times,
      facts: boundFacts(times),
      notes: [`each end of a session took two looks through the host's ${processes} processes`],
    };
  }],
  ["an idle agent and a held lock", async (world, signal, cleanUp) => {
    const residents = await measureResidents(world, cleanUp, signal);
    return { residents, facts: residentFacts(residents) };
  }],
];

function row(
  [what, ours]: [string, Times],
  [against, theirs]: [string, Times],
  direction: Row["direction"],
  goal: number,
): Row {
  return { what, against, ours, theirs, direction, goal };
}

function ms(times: Times, percentile: 50 | 99 = 50): string {
  return `${(percentile === 50 ? times.p50Ms : times.p99Ms).toFixed(3)} ms`;
}
