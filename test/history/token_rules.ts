import {
  type Claim,
  excludeEachOther,
  type Ownership,
  type SortedHistory,
  type Span,
} from "./claims.ts";
import { isFileReplaced } from "./exclusion_rule.ts";
import { type Report, violation } from "./violations.ts";

/**
 * Promise 4: a token belongs to one ownership, and later ownerships of a lock have higher ones.
 *
 * Which of two exclusive ownerships is later is seen by what proves them. Beyond that, whoever claims
 * when another has been answered is later than that one.
 */
export function checkTokens(history: SortedHistory, report: Report): void {
  checkUnique(history.claims, report);
  const told = new Set<number | null>();
  for (const [lock, ownerships] of history.locks) {
    const counted = ownerships.filter(({ token }) => token !== null);
    checkRising(counted, history.replacedAt.get(lock), (earlier, later) => {
      told.add(later.token);
      reportFalling(earlier, later, report);
    });
  }
  const byLock = new Map<string, Claim[]>();
  for (const claim of history.claims) {
    if (claim.granted === undefined || claim.granted.token === null) continue;
    const list = byLock.get(claim.claim.l) ?? [];
    list.push(claim);
    byLock.set(claim.claim.l, list);
  }
  for (const claims of byLock.values()) {
    const untold = claims.filter(({ granted }) => !told.has(granted!.token));
    checkRisingBetweenClaims(untold, report);
  }
}

function checkUnique(claims: readonly Claim[], report: Report): void {
  const first = new Map<number, Claim>();
  for (const claim of claims) {
    const { granted } = claim;
    if (granted === undefined) continue;
    if (granted.token === null) {
      if (["shell", "flock"].includes(claim.claim.way)) continue;
      report(violation("token-missing", `${granted.c} was granted no token`, granted));
      continue;
    }
    const other = first.get(granted.token);
    if (other === undefined) first.set(granted.token, claim);
    else if (other.claim.l !== claim.claim.l || (!granted.joined && !other.granted!.joined)) {
      const what = `token ${granted.token} was given twice`;
      report(violation("token-reused", what, other.claim, other.granted, claim.claim, granted));
    }
  }
}

function checkRising(
  ownerships: readonly Ownership[],
  replacedAt: readonly Span[] | undefined,
  onFalling: (earlier: Ownership, later: Ownership) => void,
): void {
  let highest: Ownership | undefined;
  let highestExclusive: Ownership | undefined;
  for (const later of ownerships) {
    for (const earlier of new Set([highest, highestExclusive])) {
      if (earlier === undefined || tokenOf(earlier) <= tokenOf(later)) continue;
      if (!excludeEachOther(earlier, later)) continue;
      if (isFileReplaced(replacedAt, earlier, later)) continue;
      onFalling(earlier, later);
    }
    if (tokenOf(later) > tokenOf(highest)) highest = later;
    const isExclusive = later.claims.some(({ claim }) => !claim.shared);
    if (isExclusive && tokenOf(later) > tokenOf(highestExclusive)) highestExclusive = later;
  }
}

/** Whoever claims after another has heard of its grant has a higher token, unless it joins. */
function checkRisingBetweenClaims(claims: readonly Claim[], report: Report): void {
  const byClaim = claims.filter(({ granted }) => granted!.joined === false)
    .sort((a, b) => a.claim.t - b.claim.t);
  const byAnswer = claims.toSorted((a, b) => a.granted!.t - b.granted!.t);
  let next = 0;
  let highest: Claim | undefined;
  for (const later of byClaim) {
    for (; next < byAnswer.length && byAnswer[next]!.granted!.t < later.claim.t; next++) {
      const token = byAnswer[next]!.granted!.token!;
      if (token > (highest?.granted?.token ?? -Infinity)) highest = byAnswer[next];
    }
    const token = later.granted!.token!;
    // An equal one is a token that was reused, which is another rule's to tell.
    if (highest === undefined || highest.granted!.token! <= token) continue;
    const what = `token ${token} was claimed after the grant of token ${highest.granted!.token}`;
    report(violation("token-not-rising", what, highest.granted, later.claim, later.granted));
  }
}

function reportFalling(earlier: Ownership, later: Ownership, report: Report): void {
  const what = `token ${later.token} comes after token ${earlier.token} on ${later.lock}`;
  report(violation("token-not-rising", what, earlier.first, later.first));
}

function tokenOf(ownership: Ownership | undefined): number {
  return ownership?.token ?? -Infinity;
}
