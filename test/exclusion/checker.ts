import { type Act, actsOf, type Violation, violation } from "./acts.ts";
import type { DeadEvent, FinalEvent, HistoryEvent, OwnerEvent } from "./history.ts";

/** What a history proves. */
export interface Verdict {
  /** Whether no rule was broken. */
  ok: boolean;
  /** Every broken rule, with the events that break it. */
  violations: Violation[];
  /** Entries, complete ones and those that a death cut off. */
  acts: number;
  /** Entries that a death cut off. */
  cutOff: number;
}

/**
 * Judges a history. The rules, for each lock:
 *
 * - Two owners never act at the same time, unless both are shared. An act lasts from its entry to its exit; without
 *   exit until its owner is known to be dead; without either for ever. One that begins when the other ends is no overlap.
 * - Tokens rise strictly from entry to entry. Entries without token (shell protocol, flock(1)) are skipped. Shared
 *   entries that follow each other may come in any order, but each has a token of its own.
 * - No increment is lost: in order of entry each exclusive owner reads what the one before it wrote, starting from 0, and
 *   writes one more. What a killed owner read was written or not: then both are right.
 * - Each owner's log is in order: a grant before each entry, none lost in between, an exit for each entry, nothing after death.
 *
 * @param events In each owner's own order; the owners may be mixed in any way.
 */
export function checkHistory(events: Iterable<HistoryEvent>): Verdict {
  const violations: Violation[] = [];
  const report = (found: Violation) => violations.push(found);
  const history = sortByKind(events, report);
  let acts = 0;
  let cutOff = 0;
  for (const [lock, owners] of history.locks) {
    const actsOfLock = [...owners].flatMap(([owner, own]) =>
      actsOf(own, history.deaths.get(owner), report)
    );
    actsOfLock.sort((a, b) => compare(a.enter.tMonoNs, b.enter.tMonoNs) || compareEnds(a, b));
    checkOverlap(actsOfLock, report);
    checkTokens(actsOfLock, report);
    checkCounter(actsOfLock, history.finals.get(lock), report);
    acts += actsOfLock.length;
    cutOff += actsOfLock.filter((act) => act.exit === undefined).length;
  }
  return { ok: violations.length === 0, violations, acts, cutOff };
}

type Report = (violation: Violation) => void;

interface SortedHistory {
  /** By lock, then by owner. */
  locks: Map<string, Map<string, OwnerEvent[]>>;
  deaths: Map<string, DeadEvent>;
  finals: Map<string, FinalEvent>;
}

function sortByKind(events: Iterable<HistoryEvent>, report: Report): SortedHistory {
  const sorted: SortedHistory = { locks: new Map(), deaths: new Map(), finals: new Map() };
  const latest = new Map<string, OwnerEvent>();
  for (const event of events) {
    if (event.event === "malformed") {
      report(violation("malformed", `a line is no event: ${event.reason}`, event));
    } else if (event.event === "final") {
      sorted.finals.set(event.lock, event);
    } else if (event.event === "dead") {
      const before = sorted.deaths.get(event.owner);
      if (before !== undefined) {
        report(violation("malformed", `${event.owner} dies twice`, before, event));
      }
      sorted.deaths.set(event.owner, event);
    } else {
      const before = latest.get(event.owner);
      if (before !== undefined && before.tMonoNs > event.tMonoNs) {
        report(
          violation("clock-backwards", `the log of ${event.owner} is not in order`, before, event),
        );
      }
      latest.set(event.owner, event);
      const owners = getOrAdd(sorted.locks, event.lock, () => new Map<string, OwnerEvent[]>());
      getOrAdd(owners, event.owner, () => []).push(event);
    }
  }
  return sorted;
}

function checkOverlap(acts: readonly Act[], report: Report): void {
  let unfinished: Act[] = [];
  for (const act of acts) {
    const start = act.enter.tMonoNs;
    unfinished = unfinished.filter((other) => endOf(other) === undefined || endOf(other)! > start);
    for (const other of unfinished.filter((other) => excludeEachOther(other, act))) {
      const what = `${act.enter.owner} enters while ${other.enter.owner} acts on ` +
        `${act.enter.lock} (${describeEnd(other, start)})`;
      report(violation("overlap", what, other.enter, act.enter));
    }
    unfinished.push(act);
  }
}

function excludeEachOther(a: Act, b: Act): boolean {
  const bothShared = a.enter.mode === "shared" && b.enter.mode === "shared";
  return a.enter.owner !== b.enter.owner && !bothShared;
}

function endOf(act: Act): bigint | undefined {
  return act.exit?.tMonoNs ?? act.dead?.tMonoNs;
}

function describeEnd(act: Act, start: bigint): string {
  const end = endOf(act);
  if (end === undefined) return "which has no end";
  return `which ends ${end - start} ns later, ${act.exit === undefined ? "by death" : "by exit"}`;
}

function checkTokens(acts: readonly Act[], report: Report): void {
  const byToken = new Map<number, Act>();
  let highest: Act | undefined;
  let highestExclusive: Act | undefined;
  for (const act of acts) {
    const token = act.enter.token;
    if (token === null) continue;
    const shared = act.enter.mode === "shared";
    const earlier = shared ? highestExclusive : highest;
    const rival = byToken.get(token) ?? (tokenOf(earlier) >= token ? earlier : undefined);
    if (rival !== undefined) {
      const what = `token ${token} comes after token ${tokenOf(rival)}`;
      report(violation("token-not-rising", what, rival.enter, act.enter));
    }
    byToken.set(token, act);
    if (token > tokenOf(highest)) highest = act;
    if (!shared && token > tokenOf(highestExclusive)) highestExclusive = act;
  }
}

function tokenOf(act: Act | undefined): number {
  return act?.enter.token ?? -Infinity;
}

function checkCounter(acts: readonly Act[], final: FinalEvent | undefined, report: Report): void {
  const readers = new Map<number, Act>();
  let possible = [0];
  let last: Act | undefined;
  for (const act of acts.filter((act) => act.enter.mode === "exclusive")) {
    const read = act.enter.counterBefore ?? NaN;
    const reader = readers.get(read);
    if (!possible.includes(read)) {
      const what = `${act.enter.owner} reads ${read} where only ${possible.join(" or ")} can be`;
      if (reader !== undefined) {
        report(violation("duplicate-read", what, reader.enter, act.enter));
      } else {
        report(violation("lost-increment", what, last?.enter ?? act.enter, act.enter));
      }
    }
    if (act.exit !== undefined) readers.set(read, act);
    possible = act.exit !== undefined ? [read + 1] : [read, read + 1];
    last = act;
  }
  if (last === undefined) return;
  if (final === undefined) {
    report(
      violation("no-final-counter", `nobody read the counter of ${last.enter.lock}`, last.enter),
    );
  } else if (!possible.includes(final.counter)) {
    const what = `the counter ends at ${final.counter} where only ${possible.join(" or ")} can be`;
    report(violation("lost-increment", what, last.exit ?? last.enter, final));
  }
}

function compareEnds(a: Act, b: Act): number {
  const [endA, endB] = [endOf(a), endOf(b)];
  if (endA === undefined || endB === undefined) {
    return Number(endA === undefined) - Number(endB === undefined);
  }
  return compare(endA, endB);
}

function compare(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function getOrAdd<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const found = map.get(key) ?? make();
  map.set(key, found);
  return found;
}
