import { agentCommand } from "../support/agent_process.ts";
import { runHistory, type RunOptions, type RunResult } from "./run_history.ts";
import type { SessionEnds, Times } from "./ends.ts";

/** How long a full run lasts. */
export interface Length {
  operations: number;
  /** With fewer of them by the deadline it fails: something hangs. All of them, unless told. */
  atLeast?: number;
  minMs: number;
  deadlineMs: number;
}

/** 50 clients of all kinds on 20 locks, and all faults, under the agent as it is. */
export async function fullRun(
  seed: number,
  length: Length,
  say: (line: string) => void,
): Promise<RunResult> {
  return await runHistory({ ...everything, ...length, seed, agent: agentCommand(), say });
}

const everything: Omit<RunOptions, "agent" | "seed" | keyof Length> = {
  crowd: {
    ...{ localProcesses: 3, localClients: 8, strangers: true },
    ...{ run: 4, shell: 4, flock: 2, library: 6, bridge: 2 },
  },
  ...{
    locks: 20,
    unlinkedLocks: 2,
    owners: 4,
    pauseUs: 100,
    toolPauseUs: 4_000_000,
    sshPauseUs: 2_500_000,
    waiting: 12,
    waitMs: 300,
    holdMs: 25,
    graceMs: 500,
  },
  faults: {
    ...{ "agent-killed": 3, "agent-restarted": 1, "agent-stopped": 2, "agent-superseded": 1 },
    ...{ "holder-killed": 3, "holder-stopped": 2, "holder-frozen": 1, "spare-holder-killed": 2 },
    ...{ "controller-killed": 2, "controller-stopped": 2, "sshd-killed": 1, "sshd-stopped": 1 },
    ...{ "packets-lost": 1, "partition": 1 },
    ...{ "out-of-bytes": 2, "out-of-inodes": 2, "out-of-descriptors": 1 },
    ...{ "clock-forward": 2, "clock-back": 2 },
    ...{ "lock-file-truncated": 2, "lock-file-chmod": 2, "lock-file-unlinked": 4 },
  },
  ...{ faultPauseMs: 1_500, faultOperations: 150 },
  endings: [
    ...["controller-killed", "controller-stopped", "sshd-killed", "sshd-stopped"] as const,
    ...["hung-up", "cut-off"] as const,
  ],
  endingShare: 20,
  maxDescriptors: 1_400,
  stopsAtViolation: false,
  endDeadlineMs: 40_000,
};

/** What a run came to, in lines for people. */
export function describeRun(seed: number, { verdict, elapsedMs, clients }: RunResult): string[] {
  const { operations, answers, waited, grants, losses, acts, faults, ends } = verdict;
  const seconds = (elapsedMs / 1000).toFixed(1);
  return [
    `seed ${seed}: ${operations} operations (claims and releases that were answered) by ${clients} ` +
    `clients on 20 locks in ${seconds} s; ${acts} acts`,
    `claims: ${show(answers)}; granted after waiting: ${waited}; granted by way: ${
      show(grants)
    }; ` +
    `losses: ${show(losses)}`,
    `faults: ${show(faults)}`,
    ...describeEnds(ends),
    `broken rules: ${verdict.violations.length}`,
  ];
}

function describeEnds({ afterEnd, afterLeftovers, withoutAgent }: SessionEnds): string[] {
  const line = (what: string, { count, p99, worst }: Times) =>
    `${what}: ${count} locks, free after p99 ${p99} ms, worst ${worst} ms`;
  const meanwhile = "while the agent was ended, started or stopped";
  return [
    ...Object.entries(afterEnd).map(([how, times]) => line(`session ended, ${how}`, times)),
    line("last act of what a session left", afterLeftovers),
    line(`session ended, ${meanwhile}`, withoutAgent.afterEnd),
    line(`last act of what a session left, ${meanwhile}`, withoutAgent.afterLeftovers),
  ];
}

function show(counts: Record<string, number>): string {
  const parts = Object.entries(counts).sort(([, a], [, b]) => b - a)
    .map(([name, count]) => `${name} ${count}`);
  return parts.length === 0 ? "none" : parts.join(", ");
}

/** Everything that is wrong with a run; nothing where all is well. */
export function objectionsTo({ verdict, leaks, failure }: RunResult): string[] {
  const broken = verdict.violations.slice(0, 10).map(({ kind, message }) => `${kind}: ${message}`);
  return [...broken, ...leaks, ...(failure === undefined ? [] : [failure])];
}
