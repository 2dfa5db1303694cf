import type { HistoryEvent, Mode, OwnerFields, Way } from "./history.ts";

/** One act of a made-up history. */
export interface ActPlan {
  owner: string;
  /** Nanoseconds at the entry. */
  from: number;
  /** Nanoseconds at the exit; none: the owner does not exit. */
  to?: number;
  /** Nanoseconds at which the owner is known to be dead. */
  deadAt?: number;
  token?: number | null;
  /** What the counter is when it reads it; `null` in shared mode. */
  read?: number | null;
  way?: Way;
  mode?: Mode;
  lock?: string;
}

/** The events of one act: grant (1 ns before the entry), entry, exit, death. */
export function eventsOf(plan: ActPlan): HistoryEvent[] {
  const { owner, from, to, deadAt } = plan;
  const mode = plan.mode ?? "exclusive";
  const read = mode === "shared" ? null : plan.read ?? 0;
  const at = (ns: number): OwnerFields => ({
    ...{ owner, mode, lock: plan.lock ?? "deploy", way: plan.way ?? "agent" },
    ...{ token: plan.token === undefined ? 1 : plan.token, tMonoNs: BigInt(ns) },
  });
  const events: HistoryEvent[] = [
    { event: "grant", ...at(from - 1) },
    { event: "enter", ...at(from), counterBefore: read },
  ];
  if (to !== undefined) {
    events.push({ event: "exit", ...at(to), counterAfter: read === null ? null : read + 1 });
  }
  if (deadAt !== undefined) events.push({ event: "dead", owner, tMonoNs: BigInt(deadAt) });
  return events;
}

/** A history of acts on the lock "deploy", which ends with this counter. */
export function historyOf(plans: readonly ActPlan[], final: number): HistoryEvent[] {
  return [...plans.flatMap(eventsOf), { event: "final", lock: "deploy", counter: final }];
}
