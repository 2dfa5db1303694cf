import { type Claim, keyOf, type Ownership, type SortedHistory } from "./claims.ts";
import { queueEnds } from "./queue_rule.ts";

/** How long locks stayed taken after their session had ended, in milliseconds. */
export interface SessionEnds {
  /** Sessions that ended with a lock, by what was done to them, and from then on to the free lock. */
  afterEnd: Record<string, Times>;
  /** From the last act of a session's leftovers to the free lock. */
  afterLeftovers: Times;
  /** The same two where no agent ran for a part of that time, or it was stopped: nobody could free it. */
  withoutAgent: { afterEnd: Times; afterLeftovers: Times };
}

/** So many, and how long they took, in milliseconds. */
export interface Times {
  count: number;
  p99: number;
  worst: number;
}

/** From when to when, in nanoseconds. */
type Span = readonly [from: number, to: number];

/**
 * Measures how long locks stayed taken after their session had ended. A lock is known to be free when
 * the agent's log was read to say so or when the next one has it, whatever comes first; so the times
 * are upper bounds.
 */
export function measureEnds(history: SortedHistory): SessionEnds {
  const endOf = new Map(history.ends.map((end) => [end.c, end]));
  const freedAt = new Map<string, number>();
  for (const { event, claim, t } of history.agent) {
    if (event === "lock-ended" && claim !== undefined) freedAt.set(claim, t);
  }
  // Of clients that do not say when they are done (`run`), only the last claim was under way.
  const lastN = new Map<string, number>();
  for (const { claim: { c, n, t } } of history.claims) {
    if (t < (endOf.get(c)?.t ?? 0)) lastN.set(c, Math.max(n, lastN.get(c) ?? 0));
  }
  const absences = findAbsences(history);
  const byHow = new Map<string, number[]>();
  const afterLeftovers: number[] = [];
  const withoutAgent = { afterEnd: [] as number[], afterLeftovers: [] as number[] };
  for (const ownerships of history.locks.values()) {
    for (const [index, ownership] of ownerships.entries()) {
      // Where sessions share it, it is free when the last of them has ended.
      const [claim, ...others] = ownership.claims;
      const end = endOf.get(claim!.claim.c);
      if (end === undefined || others.length > 0 || isOverBy(claim!, end.t)) continue;
      if (lastN.get(claim!.claim.c) !== claim!.claim.n) continue;
      const next = ownerships.slice(index + 1).find(({ first }) => first.t > end.t);
      const freedT = freedAt.get(keyOf(claim!)) ?? Infinity;
      const freeT = Math.min(freedT, next?.first.t ?? Infinity);
      if (!Number.isFinite(freeT)) continue;
      const isDisturbed = absences.some(([from, to]) => from < freeT && to > end.t);
      const ofThisEnd = isDisturbed ? withoutAgent.afterEnd : byHow.get(end.how) ?? [];
      ofThisEnd.push(Math.max(0, freeT - end.t) / 1e6);
      if (!isDisturbed) byHow.set(end.how, ofThisEnd);
      const lastActT = lastActOf(ownership);
      if (lastActT !== undefined && lastActT > end.t) {
        const times = isDisturbed ? withoutAgent.afterLeftovers : afterLeftovers;
        times.push(Math.max(0, freeT - lastActT) / 1e6);
      }
    }
  }
  return {
    afterEnd: Object.fromEntries([...byHow].map(([how, times]) => [how, summarize(times)])),
    afterLeftovers: summarize(afterLeftovers),
    withoutAgent: {
      afterEnd: summarize(withoutAgent.afterEnd),
      afterLeftovers: summarize(withoutAgent.afterLeftovers),
    },
  };
}

/** When no agent ran, or it was stopped. */
function findAbsences({ faults, agent }: SortedHistory): Span[] {
  const starts = agent.filter(({ event }) => event === "agent-started").map(({ t }) => t);
  return faults.flatMap(({ kind, t, until }): Span[] => {
    if (kind === "agent-stopped") return [[t, until ?? t]];
    return queueEnds.includes(kind) ? [[t, starts.find((start) => start > t) ?? Infinity]] : [];
  });
}

function isOverBy({ granted, release, lost }: Claim, t: number): boolean {
  return granted!.t > t || (release?.t ?? Infinity) < t || (lost?.t ?? Infinity) < t;
}

function lastActOf({ claims }: Ownership): number | undefined {
  return claims[0]!.lastAct?.t;
}

function summarize(times: number[]): Times {
  times.sort((a, b) => a - b);
  const count = times.length;
  const p99 = times[Math.min(count - 1, Math.floor(count * 0.99))] ?? 0;
  return { count, p99: round(p99), worst: round(times.at(-1) ?? 0) };
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}
