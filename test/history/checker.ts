import { sortHistory } from "./claims.ts";
import { checkExclusion } from "./exclusion_rule.ts";
import { measureEnds, type SessionEnds } from "./ends.ts";
import type { HistoryEvent } from "./history.ts";
import { checkJoining } from "./joining_rules.ts";
import { checkQueue } from "./queue_rule.ts";
import { checkTokens } from "./token_rules.ts";
import type { Violation } from "./violations.ts";

/** What a history proves. */
export interface Verdict {
  /** Whether no rule was broken. */
  ok: boolean;
  /** Every broken rule, with the events that break it. */
  violations: Violation[];
  /** Claims that were answered, and releases that were answered. */
  operations: number;
  /** Claims by how they were answered: `granted`, `joined`, or the code of the refusal. */
  answers: Record<string, number>;
  /** Claims that were told that they wait, and were granted. */
  waited: number;
  /** Grants by way. */
  grants: Record<string, number>;
  /** Losses that clients were told, by reason. */
  losses: Record<string, number>;
  /** How often anything acted. */
  acts: number;
  /** Faults by kind. */
  faults: Record<string, number>;
  /** How long locks stayed taken after their session had ended. */
  ends: SessionEnds;
}

/**
 * Judges a history against a model of a lock: one owner at a time, shared ones together, sessions of
 * one owner joined under one token; the next enters when nothing of the last acts any more; and
 * tokens rise. Each rule is in a file of its own.
 *
 * @param events In any order.
 */
export function checkHistory(events: readonly HistoryEvent[]): Verdict {
  const violations: Violation[] = [];
  const report = (found: Violation) => violations.push(found);
  const history = sortHistory(events, report);
  checkExclusion(history, report);
  checkTokens(history, report);
  checkJoining(history, report);
  checkQueue(history, report);
  const answers: Record<string, number> = {};
  const grants: Record<string, number> = {};
  const losses: Record<string, number> = {};
  let [operations, waited] = [0, 0];
  for (const { claim, queued, granted, refused, released, lost } of history.claims) {
    if (granted !== undefined) {
      waited += Number(queued !== undefined);
      count(answers, granted.joined ? "joined" : "granted");
      count(grants, claim.way);
    } else if (refused !== undefined) count(answers, refused.code);
    if (lost !== undefined) count(losses, lost.reason);
    const isAnswered = granted !== undefined || (refused?.code ?? "connection") !== "connection";
    operations += Number(isAnswered) + Number(released !== undefined);
  }
  const faults: Record<string, number> = {};
  for (const { kind } of history.faults) count(faults, kind);
  const acts = events.filter(({ e }) => e === "act").length;
  const ends = measureEnds(history);
  const ok = violations.length === 0;
  return { ok, violations, operations, answers, waited, grants, losses, acts, faults, ends };
}

function count(counts: Record<string, number>, key: string): void {
  counts[key] = (counts[key] ?? 0) + 1;
}
