import { type Claim, keyOf, type SortedHistory } from "./claims.ts";
import { type Report, violation } from "./violations.ts";

/**
 * Sessions of one owner and user share a lock, others do not; and nobody joins a lock whose sessions
 * have all ended or are ending.
 */
export function checkJoining(history: SortedHistory, report: Report): void {
  for (const ownerships of history.locks.values()) {
    for (const { claims } of ownerships) {
      if (claims.length === 1 && !claims[0]!.granted!.joined) continue;
      for (const claim of claims) {
        checkSame(claims, claim, report);
        if (claim.granted!.joined) checkCompany(history, claims, claim, report);
      }
    }
  }
}

function checkSame(claims: Claim[], joined: Claim, report: Report): void {
  const { claim, granted } = joined;
  const stranger = claims.find((other) => !isAlike(other, joined));
  if (stranger === undefined || !granted!.joined) return;
  const what = `${claim.c} joined the lock of another owner, user or mode`;
  report(violation("joined-stranger", what, stranger.claim, stranger.granted, claim, granted));
}

function isAlike({ claim: a }: Claim, { claim: b }: Claim): boolean {
  return a.l === b.l && a.owner === b.owner && a.uid === b.uid && a.shared === b.shared;
}

function checkCompany(
  history: SortedHistory,
  claims: Claim[],
  joined: Claim,
  report: Report,
): void {
  const isThere = (other: Claim) =>
    other !== joined && other.claim.t < joined.granted!.t &&
    surelyOverAt(history, other) > joined.claim.t;
  const unheard = history.unheard.get(joined.granted!.token!) ?? [];
  if ([...claims, ...unheard.filter((other) => isAlike(other, joined))].some(isThere)) return;
  const [first] = claims;
  const what = `${joined.claim.c} joined a lock that no session of its owner had any longer`;
  report(violation("joined-nobody", what, first!.granted, joined.claim, joined.granted));
}

/** From then on its session cannot be joined: it has released, was told its loss, or is ending. */
function surelyOverAt({ endingAt }: SortedHistory, claim: Claim): number {
  const { released, lost } = claim;
  const endingT = endingAt.get(keyOf(claim));
  const releasedT = released?.code === undefined ? released?.t : undefined;
  return Math.min(releasedT ?? Infinity, lost?.t ?? Infinity, endingT ?? Infinity);
}
