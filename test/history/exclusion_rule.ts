import {
  excludeEachOther,
  isRemote,
  type Ownership,
  type SortedHistory,
  type Span,
} from "./claims.ts";
import { type Report, violation } from "./violations.ts";

/**
 * Time that an answer may be on its way, in nanoseconds: a lock whose file is taken away while its
 * grant is on the way was granted before.
 */
const underwayNs = 1e9;

/**
 * Promises 1 and 2: two owners never have one lock at the same time, unless both are shared, and
 * nothing of an earlier one acts after the grant to a later one.
 *
 * A lock whose file was taken away may overlap with that of who was the first to lock the new file, if
 * one of the two is none of an agent's: no lock on a file can prevent that. An agent's own clients it
 * keeps apart whatever becomes of the file.
 */
export function checkExclusion({ locks, replacedAt }: SortedHistory, report: Report): void {
  for (const [lock, ownerships] of locks) {
    let unfinished: Ownership[] = [];
    for (const later of ownerships) {
      unfinished = unfinished.filter((earlier) => earlier.last.t > later.first.t);
      for (const earlier of unfinished) {
        if (!excludeEachOther(earlier, later)) continue;
        if (isFileReplaced(replacedAt.get(lock), earlier, later)) continue;
        const ms = ((earlier.last.t - later.first.t) / 1e6).toFixed(3);
        const what = `${nameOf(later)} had ${lock} ${ms} ms before the last sign of ` +
          `${nameOf(earlier)}`;
        report(violation("overlap", what, earlier.first, later.first, earlier.last));
      }
      unfinished.push(later);
    }
  }
}

/**
 * Whether the lock's file was taken away between the grants of these two, one of which had the old file
 * and one of which was not an agent's to keep out.
 */
export function isFileReplaced(
  spans: readonly Span[] | undefined,
  earlier: Ownership,
  later: Ownership,
): boolean {
  if (!earlier.isForeign && !later.isForeign) return false;
  return spans?.some((span) =>
    earlier.first.t < span.from + underwayNs && span.from < later.first.t &&
    (mayHaveOldFile(earlier, span) || mayHaveOldFile(later, span))
  ) ?? false;
}

/** Who claims after the file was taken away locks the new one, and so does who waited for much longer. */
function mayHaveOldFile({ notBefore, first, claims }: Ownership, { from, to }: Span): boolean {
  return notBefore < to && (first.t < from + underwayNs || claims.some(isRemote));
}

function nameOf({ claims, token }: Ownership): string {
  const { owner, way } = claims[0]!.claim;
  return `${owner} (${way}, ${token === null ? "no token" : `token ${token}`})`;
}
