/**
 * What claims are refused with.
 *
 * @module
 */

import {
  type ClaimParams,
  type ContendedFacts,
  describeHolder,
  describeMs,
  type HolderFacts,
} from "../protocol/messages.ts";
import type { TakeoverOutcome } from "../protocol/takeover_outcome.ts";
import { WireError } from "../protocol/wire_error.ts";
import type { AgentConfig } from "./config.ts";
import type { LockEntry } from "./lock_entry.ts";
import type { PendingClaim } from "./pending_claim.ts";

/**
 * Another has the lock.
 *
 * @param entry The lock.
 * @param claim The claim.
 * @param holders Who has it; empty where that is not known.
 */
export function contended(
  { name, queue }: LockEntry,
  claim: PendingClaim,
  holders: readonly HolderFacts[],
): WireError {
  const [holder] = holders;
  const facts: ContendedFacts = {
    name,
    holder,
    holderCount: holders.length,
    queueLength: queue.filter((other) => other !== claim).length,
    waitedMs: claim.waitMs === 0 ? 0 : claim.waitedMs,
    takeover: outcomeOf(claim),
  };
  const message = `Cannot claim "${name}": ${describeHolder(holder)}${describeTakeover(claim)}`;
  return new WireError("contended", message, { ...facts });
}

function outcomeOf({ takeover, waitMs }: PendingClaim): TakeoverOutcome | undefined {
  if (takeover === undefined) return undefined;
  if (takeover.asked.size === 0) return "nobody-asked";
  if (!takeover.mayForce) return "not-authorised";
  return waitMs < takeover.deadlineMs ? "before-deadline" : "ending";
}

function describeTakeover({ takeover }: PendingClaim): string {
  if (takeover === undefined) return "";
  if (takeover.asked.size === 0) return "; nobody was there to be asked for it";
  if (takeover.mayForce) return "; it was asked for and has not been let go yet";
  return "; it was asked for and not released, and only root, the user who has it and the admin " +
    "group may end its session";
}

/**
 * The session has the lock or wants it already.
 *
 * @param name The lock.
 */
export function alreadyClaimed(name: string): WireError {
  const message = `Cannot claim "${name}": this session has it or has claimed it already`;
  return new WireError("already-claimed", message, { name });
}

/**
 * The claim was taken back before it was answered.
 *
 * @param name The lock.
 * @param detail Why.
 */
export function cancelled(name: string, detail: string): WireError {
  return new WireError("cancelled", `Claim of "${name}" has ended: ${detail}`, { name });
}

/**
 * Should the agent end, nobody would know whose lock it is: so it is nobody's.
 *
 * @param name The lock.
 * @param cause What stood in the way of its record.
 */
export function notRecorded(name: string, cause: Error): WireError {
  const message = `Cannot claim "${name}": its record cannot be written: ${cause.message}`;
  return new WireError("no-record", message, { name });
}

/**
 * Refuses a claim whose lock would stay reserved for longer than this host allows.
 *
 * @param params What is claimed.
 * @param config What is allowed.
 * @throws {WireError} `limit`.
 */
export function checkParking(
  { name, parkMs = 0 }: ClaimParams,
  { maxParkMs }: Pick<AgentConfig, "maxParkMs">,
): void {
  if (parkMs <= maxParkMs) return;
  const message = `Cannot claim "${name}": on this host it cannot be reserved for longer than ` +
    describeMs(maxParkMs);
  throw new WireError("limit", message, { limit: "parkMs", max: maxParkMs });
}
