import type { Crowd } from "./crowd.ts";
import type { Machine } from "./machine.ts";
import type { Residents } from "./resident.ts";
import type { Times } from "./sampling.ts";

/** A row of the table: something measured, beside what it is measured against. */
export interface Row {
  readonly what: string;
  readonly against: string;
  readonly ours: Times;
  readonly theirs: Times;
  /** `faster`: theirs over ours, at least the goal. `slower`: ours over theirs, at most the goal. */
  readonly direction: "faster" | "slower";
  readonly goal: number;
}

/** A fact with a limit, in words. */
export interface Fact {
  readonly what: string;
  readonly found: string;
  readonly goal: string;
  readonly isMet: boolean;
}

/** The ratio that the goal of a row is about. */
export function ratioOf({ ours, theirs, direction }: Row): number {
  return direction === "faster" ? theirs.p50Ms / ours.p50Ms : ours.p50Ms / theirs.p50Ms;
}

/** Whether a row reaches its goal. */
export function isMet(row: Row): boolean {
  return row.direction === "faster" ? ratioOf(row) >= row.goal : ratioOf(row) <= row.goal;
}

/** What the processes that are just there cost, as facts. */
export function residentFacts({ holder, holderProcesses, agent }: Residents): Fact[] {
  const seconds = `in ${agent.watchedMs / 1_000} s`;
  const mb = (kb: number) => `${(kb / 1_024).toFixed(1)} MB`;
  const fact = (what: string, found: string, goal: string, isMet: boolean) => (
    { what, found, goal, isMet }
  );
  return [
    fact("one held lock: memory", `${holder.rssKb} kB`, "16 kB", holder.rssKb <= 16),
    fact("one held lock: processes", String(holderProcesses), "1", holderProcesses === 1),
    fact("one held lock: wake-ups", `${holder.switches} ${seconds}`, "0", holder.switches === 0),
    fact("idle agent: memory", mb(agent.rssKb), "40 MB", agent.rssKb <= 40 * 1_024),
    fact("idle agent: private", mb(agent.privateKb), "6 MB", agent.privateKb <= 6 * 1_024),
    fact("idle agent: wake-ups", `${agent.switches} ${seconds}`, "0", agent.switches === 0),
  ];
}

/** What many sessions and locks cost, as facts; the goals are ours, not the design's. */
export function crowdFacts(crowd: Crowd): Fact[] {
  const { sessions, locks, times, lockKb, sessionKb } = crowd;
  const memory = (what: string, kb: number, most: number) => ({
    what: `agent, memory for each ${what}`,
    found: `${kb.toFixed(1)} kB`,
    goal: `${most} kB`,
    isMet: kb <= most,
  });
  const time = (what: string, tookMs: number, most: number) => ({
    what,
    found: `${(tookMs / 1_000).toFixed(2)} s`,
    goal: `${most} s`,
    isMet: tookMs <= most * 1_000,
  });
  return [
    memory("session", sessionKb, 16),
    memory("held lock", lockKb, 16),
    time(`${locks} locks listed`, times.listing.p50Ms, 2),
    // A controller gives up 10 s after it sent the last ping that was answered, and sends one each 3 s.
    time(`${locks} locks taken over`, crowd.takenOverMs, 5),
    time(`${sessions} sessions resumed after it`, crowd.resumedMs, 7),
    time(`${sessions} sessions ended at once`, crowd.endedMs, 10),
  ];
}

/** The report for people, at most 80 columns wide. */
export function renderReport(
  machine: Machine,
  rows: readonly Row[],
  facts: readonly Fact[],
  notes: readonly string[],
): string {
  return [
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGb} GB, Linux ${machine.kernel}`,
    `commit ${machine.commit}, agent ${machine.agent}, load ${machine.load}`,
    `node ${machine.node}, bun ${machine.bun}, ssh2 ${machine.ssh2}`,
    "",
    ...(rows.length === 0 ? [] : [line("milliseconds", "p50", "p99", "ratio", "goal", "")]),
    ...rows.flatMap((row) => renderRow(row)),
    ...(rows.length === 0 ? [] : [""]),
    ...facts.map(({ what, found, goal, isMet }) =>
      `${what.padEnd(38)}${found.padStart(16)}${goal.padStart(13)}${verdict(isMet)}`
    ),
    "",
    ...notes,
  ].join("\n");
}

function renderRow(row: Row): string[] {
  const { ours, theirs, direction, goal } = row;
  const sign = direction === "faster" ? ">=" : "<=";
  const ratio = ratioOf(row).toFixed(2);
  return [
    line(row.what, ms(ours.p50Ms), ms(ours.p99Ms), ratio, `${sign} ${goal}`, verdict(isMet(row))),
    line(`  ${row.against}`, ms(theirs.p50Ms), ms(theirs.p99Ms), "", "", ""),
  ];
}

function line(what: string, p50: string, p99: string, ratio: string, goal: string, end: string) {
  const cells = p50.padStart(8) + p99.padStart(8) + ratio.padStart(7) + goal.padStart(8);
  return `${what.padEnd(36)}${cells}${end}`.trimEnd();
}

function ms(value: number): string {
  return value.toFixed(value < 10 ? 3 : 1);
}

function verdict(isMet: boolean): string {
  return isMet ? "  met" : "  not met";
}
