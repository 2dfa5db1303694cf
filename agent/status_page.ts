/**
 * What is told of locks, cut so that it fits a line of the protocol.
 *
 * A host may have thousands of locks, and a lock thousands of waiters.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { MAX_LINE_BYTES } from "../protocol/limits.ts";
import type { LockFacts, StatusResult } from "../protocol/messages.ts";

/** Bytes left of a line for the request's id, the notes, and what is around the locks. */
const RESERVED_BYTES = 8 * 1024;

const MAX_PAGE_BYTES = MAX_LINE_BYTES - RESERVED_BYTES;

/** What the holders of one lock may take, and its waiters; both together fit a page with their lock's name. */
const MAX_LIST_BYTES = MAX_PAGE_BYTES / 2 - 1024;

/** Locks that are looked at for one page: some 200 usual ones fit a line. */
export const MAX_LOCKS_A_PAGE = 250;

/** More of a list than anybody reads; it bounds the work for each change of a lock with a long queue. */
const MAX_LISTED = 200;

/**
 * The lock with as many of its holders and waiters as fit a line, and the number of the others.
 *
 * @param lock All that is known of it.
 */
export function fitLock(lock: LockFacts): LockFacts {
  const holders = fitList(lock.holders);
  const waiters = fitList(lock.waiters);
  const holdersOmitted = lock.holders.length - holders.length;
  const waitersOmitted = lock.waiters.length - waiters.length;
  return {
    name: lock.name,
    holders,
    waiters,
    ...(holdersOmitted > 0 ? { holdersOmitted } : {}),
    ...(waitersOmitted > 0 ? { waitersOmitted } : {}),
  };
}

/**
 * The locks behind `after` that fit a line, and whether there are more.
 *
 * @param status All locks, by name.
 * @param after A lock name; absent: from the first lock on.
 */
export function pageOf(
  { locks, notes, more }: StatusResult,
  after: string | undefined,
): StatusResult {
  const page: LockFacts[] = [];
  let bytes = 0;
  for (const lock of locks) {
    if (after !== undefined && lock.name <= after) continue;
    const fitted = fitLock(lock);
    bytes += bytesOf(fitted);
    if (bytes > MAX_PAGE_BYTES) return { locks: page, more: true, ...(notes && { notes }) };
    page.push(fitted);
  }
  return { locks: page, ...(more && { more }), ...(notes && { notes }) };
}

function fitList<T>(list: T[]): T[] {
  let bytes = 0;
  const end = list.findIndex((item, index) => {
    bytes += bytesOf(item);
    return bytes > MAX_LIST_BYTES || index === MAX_LISTED;
  });
  return end < 0 ? list : list.slice(0, end);
}

/** With the comma behind it. */
function bytesOf(item: unknown): number {
  return Buffer.byteLength(JSON.stringify(item)) + 1;
}
