/**
 * Locks and their changes as lines for people: `watch` of both command lines prints the same.
 *
 * @module
 */

import { type ChangeParams, describeHolder, type LockFacts } from "./messages.ts";

/**
 * A lock as it is.
 *
 * @param lock The lock.
 */
export function stateLine({ name, holders, waiters, waitersOmitted = 0 }: LockFacts): string {
  const state = holders.length === 0 ? "free" : holders.map(describeHolder).join(", ");
  const queue = waiters.length === 0 ? "" : `; ${waiters.length + waitersOmitted} waiting`;
  return `${name}: ${state}${queue}`;
}

/**
 * A change of a lock, with the time of day (UTC).
 *
 * @param change The change.
 */
export function changeLine({ event, owner, lock }: ChangeParams): string {
  const time = new Date().toISOString().slice(11, 23);
  return `${time}  ${event.padEnd(8)}  ${owner === undefined ? "" : `${owner}  `}${
    stateLine(lock)
  }`;
}
