import { type Claim, isRemote, type SortedHistory } from "./claims.ts";
import { type Report, violation } from "./violations.ts";

/** Faults that end the queue of an agent, and with it the order in which its claims came. */
export const queueEnds: readonly string[] = ["agent-killed", "agent-restarted", "agent-superseded"];

/**
 * Claims of one lock at one agent are granted in the order in which they came: whoever claims after
 * another was told that it waits is not granted before it. Joining is no overtaking.
 */
export function checkQueue({ claims, faults }: SortedHistory, report: Report): void {
  const restarts = faults.filter(({ kind }) => queueEnds.includes(kind)).map(({ t }) => t);
  const byLock = new Map<string, Claim[]>();
  for (const claim of claims) {
    if (claim.granted === undefined || claim.granted.joined) continue;
    const list = byLock.get(claim.claim.l) ?? [];
    list.push(claim);
    byLock.set(claim.claim.l, list);
  }
  for (const granted of byLock.values()) {
    granted.sort((a, b) => a.granted!.t - b.granted!.t);
    checkLock(granted, restarts, report);
  }
}

/** Grants come later and later, so whoever was overtaken waits in what is left of the list. */
function checkLock(granted: Claim[], restarts: number[], report: Report): void {
  // Who is far away may hear late of a grant that came in its turn.
  const waited = granted.filter((claim) => claim.queued !== undefined && !isRemote(claim));
  for (const overtaker of granted) {
    if (["shell", "flock"].includes(overtaker.claim.way)) continue;
    while (waited.length > 0 && waited[0]!.granted!.t <= overtaker.granted!.t) waited.shift();
    const overtaken = waited.find((claim) =>
      claim.queued!.t < overtaker.claim.t && !(claim.claim.shared && overtaker.claim.shared) &&
      !restarts.some((t) => claim.queued!.t - 1e9 < t && t < overtaker.granted!.t)
    );
    if (overtaken === undefined) continue;
    const what = `${overtaker.claim.c} was granted ${overtaker.claim.l} before ` +
      `${overtaken.claim.c}, who waited already when it came`;
    report(violation("overtaken", what, overtaken.queued, overtaker.claim, overtaker.granted));
  }
}
