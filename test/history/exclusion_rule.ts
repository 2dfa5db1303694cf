import { excludeEachOther, type Ownership, type SortedHistory } from "./claims.ts";
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
 * A lock whose file was taken away is lost; until its session hears of it, it may overlap with who
 * locks the new file. No lock on a file can prevent that.
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

/** Whether the lock's file was taken away between the grants of these two. */
export function isFileReplaced(
  times: readonly number[] | undefined,
  earlier: Ownership,
  later: Ownership,
): boolean {
  return times?.some((t) => earlier.first.t < t + underwayNs && t < later.first.t) ?? false;
}

function nameOf({ claims, token }: Ownership): string {
  const { owner, way } = claims[0]!.claim;
  return `${owner} (${way}, ${token === null ? "no token" : `token ${token}`})`;
}
