/**
 * A lock as the table has it: who has it, who waits, and the rules of who may have it beside whom.
 *
 * @module
 */

import type { HolderFacts, LockFacts } from "../protocol/messages.ts";
import type { NextRun } from "./next_run.ts";
import { type Claimant, factsOfGrant, type Grant, type Ownership, partsOf } from "./ownership.ts";
import type { PendingClaim } from "./pending_claim.ts";

/** One lock of the table. */
export interface LockEntry {
  readonly name: string;
  /** Several only while all of them are shared. */
  readonly ownerships: Ownership[];
  /** In the order of {@linkcode enqueue}; the first may be the one that is tried. */
  readonly queue: PendingClaim[];
  /** The claim that is tried. */
  attempt: PendingClaim | undefined;
  /** Killed holders that are being replaced: each of the new ones may take the lock until it is done. */
  replacements: number;
  /** Looks who holds it where that is none of ours. */
  look: NextRun<HolderFacts[]> | undefined;
}

/**
 * A lock that nobody has or wants.
 *
 * @param name The lock.
 */
export function emptyEntry(name: string): LockEntry {
  return { name, ownerships: [], queue: [], attempt: undefined, replacements: 0, look: undefined };
}

/**
 * Adds a claim: in the order they came, but those that may force it before those that can only wait.
 *
 * @param queue The claims of a lock.
 * @param claim The new one.
 */
export function enqueue(queue: PendingClaim[], claim: PendingClaim): void {
  const place = claim.isForced ? queue.findIndex(({ isForced }) => !isForced) : -1;
  queue.splice(place < 0 ? queue.length : place, 0, claim);
}

/**
 * The owner's own lock, when a session of the owner has it that is not ending, and its file is there.
 *
 * @param entry The lock.
 * @param claim Who claims it.
 */
export function joinable(
  entry: LockEntry,
  { claimant, shared }: PendingClaim,
): Ownership | undefined {
  // Anyone may call themselves anything: only the same user's sessions share an owner's lock.
  return entry.ownerships.find(({ owner, uid, shared: isShared, grants, isReplaced }) =>
    owner === claimant.owner && uid === claimant.peer.uid && isShared === shared && !isReplaced &&
    grants.some((grant) => grant.claimant.state !== "ending")
  );
}

/**
 * Whether a parked ownership is for this claim: its owner's, in the mode it has.
 *
 * @param ownership An ownership, parked or not.
 * @param claim Who claims the lock.
 */
export function isReservedFor(ownership: Ownership, claim: PendingClaim): boolean {
  const { parked, owner, uid, shared } = ownership;
  const { claimant } = claim;
  return parked !== undefined && !claim.isSettled && owner === claimant.owner &&
    uid === claimant.peer.uid && shared === claim.shared;
}

/**
 * Whether a claim can be granted beside the ownerships there are.
 *
 * @param entry The lock.
 * @param claim Who claims it.
 */
export function isCompatible(entry: LockEntry, claim: PendingClaim): boolean {
  return entry.ownerships.every((ownership) => ownership.shared && claim.shared);
}

/**
 * The sessions' parts in a lock, and those of the last sessions of parked ownerships.
 *
 * @param entry The lock.
 */
export function partsOfEntry(entry: LockEntry): Grant[] {
  return entry.ownerships.flatMap(partsOf);
}

/**
 * A session's part in a lock.
 *
 * @param entry The lock.
 * @param claimant The session.
 */
export function grantOf(entry: LockEntry, claimant: Claimant): Grant | undefined {
  return entry.ownerships.flatMap(({ grants }) => grants)
    .find((grant) => grant.claimant === claimant);
}

/**
 * What `status` tells of a lock.
 *
 * @param entry The lock.
 */
export function factsOf(entry: LockEntry): LockFacts {
  return {
    name: entry.name,
    holders: partsOfEntry(entry).map(factsOfGrant),
    waiters: entry.queue.filter((claim) => !claim.isSettled).map((claim) => ({
      owner: claim.claimant.owner,
      purpose: claim.params.purpose,
      uid: claim.claimant.peer.uid,
      waitedMs: claim.waitedMs,
      shared: claim.shared,
      takeover: claim.takeover?.reason,
    })),
  };
}
