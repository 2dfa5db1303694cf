/**
 * Claims that take a lock over: whoever has it is asked, and loses it after a deadline where the
 * claimant may end the session.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import type { ChangeEvent } from "../protocol/messages.ts";
import { type LockEntry, partsOfEntry } from "./lock_entry.ts";
import type { Log } from "./log.ts";
import { type Claimant, type EndCause, eventFacts, type Grant, partsOf } from "./ownership.ts";
import type { PendingClaim, Takeover } from "./pending_claim.ts";
import type { Rights } from "./rights.ts";
import { userName } from "./users.ts";

/** What takeovers work with. */
export interface TakeoverParts {
  /** Who may end whose session. */
  rights: Rights;
  /** Where events go. */
  log: Log;
  /** Tells watchers. */
  announce(event: ChangeEvent, claimant: Claimant, entry: LockEntry): void;
  /** Ends the session that has this part, or the parking. */
  end(grant: Grant, cause: EndCause): void;
}

/** The takeovers of a table. */
export class Takeovers {
  readonly #parts: TakeoverParts;

  /**
   * @param parts What it works with.
   */
  constructor(parts: TakeoverParts) {
    this.#parts = parts;
  }

  /**
   * Whether a claimant may end all sessions that have a lock; `false` where none has it.
   *
   * @param entry The lock.
   * @param claimant Who claims it.
   */
  mayForce(entry: LockEntry, { peer }: Claimant): boolean {
    const parts = partsOfEntry(entry);
    return parts.length > 0 &&
      parts.every(({ claimant }) => this.#parts.rights.mayEnd(peer, claimant.peer.uid));
  }

  /**
   * Asks each session that is in the way of a takeover, once, and ends it when its time is over.
   *
   * @param entry The lock.
   */
  ask(entry: LockEntry): void {
    for (const claim of entry.queue.filter((claim) => claim.takeover !== undefined)) {
      for (const grant of partsOfEntry(entry)) {
        if (claim.shared && grant.ownership.shared) continue;
        this.#ask(entry, grant, claim, claim.takeover!);
      }
    }
  }

  /**
   * Tells a session that has come back who has asked for its lock meanwhile.
   *
   * @param entry The lock.
   * @param grant The session's part.
   */
  repeat(entry: LockEntry, grant: Grant): void {
    for (const claim of entry.queue) {
      const asked = claim.takeover?.asked.get(grant);
      if (asked === undefined) continue;
      this.#tell(grant, claim, Math.max(0, Math.round(asked.endsAt - performance.now())));
    }
  }

  #ask(entry: LockEntry, grant: Grant, claim: PendingClaim, takeover: Takeover): void {
    const { asked, askedOwners } = takeover;
    if (asked.has(grant) || claim.isSettled) return;
    // Nobody is there to be asked when the lock is only reserved.
    const deadlineMs = grant.ownership.parked === undefined ? timeFor(grant, takeover) : 0;
    const endsAt = performance.now() + deadlineMs;
    // Who does not wait for so long will have been refused by then.
    const forced = claim.waitsUntil > endsAt &&
      this.#parts.rights.mayEnd(claim.claimant.peer, grant.claimant.peer.uid);
    const timer = setTimeout(() => this.#force(grant, claim), deadlineMs);
    asked.set(grant, { endsAt, forced, timer });
    askedOwners.add(grant.claimant.owner);
    const facts = { ...eventFacts(grant), ...factsOf(grant, claim), deadlineMs };
    this.#parts.log("takeover-asked", facts);
    this.#tell(grant, claim, deadlineMs);
    this.#parts.announce("takeover", claim.claimant, entry);
  }

  #tell(grant: Grant, claim: PendingClaim, deadlineMs: number): void {
    const { by, byUid, why: reason, forced } = factsOf(grant, claim);
    const { name } = grant.ownership;
    grant.claimant.notifyTakeover({ name, by, byUid, reason, deadlineMs, forced });
  }

  #force(grant: Grant, claim: PendingClaim): void {
    const isPresent = partsOf(grant.ownership).includes(grant);
    const facts = factsOf(grant, claim);
    const isEnding = grant.ownership.parked === undefined && grant.claimant.state === "ending";
    if (claim.isSettled || !isPresent || isEnding || !facts.forced) return;
    const { by, byUid, why } = facts;
    this.#parts.log("lock-taken-over", { ...eventFacts(grant), ...facts });
    const detail = `taken over by ${by} (${userName(byUid) ?? `uid ${byUid}`}): ${why}`;
    this.#parts.end(grant, { reason: "taken-over", detail });
  }
}

function factsOf(grant: Grant, { claimant, takeover }: PendingClaim) {
  const { reason: why, asked } = takeover!;
  const { owner: by, peer } = claimant;
  return { by, byUid: peer.uid, why, forced: asked.get(grant)?.forced ?? false };
}

/** Who joins later has what is left of the time: else an owner could put the deadline off for ever. */
function timeFor({ ownership }: Grant, { asked, deadlineMs }: Takeover): number {
  const ends = [...asked].filter(([grant]) => grant.ownership === ownership)
    .map(([, { endsAt }]) => endsAt);
  const leftMs = Math.round(Math.min(...ends) - performance.now());
  return ends.length === 0 ? deadlineMs : Math.max(0, leftMs);
}
