/**
 * What one user may have of this agent at once, so that nobody uses it up for the others.
 *
 * Descriptors are counted here and refused in time: at EMFILE the accept loops of the runtimes end
 * or spin.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import { WireError } from "../protocol/wire_error.ts";
import type { AgentConfig } from "./config.ts";

/** Descriptors kept for the log, /proc, records and a new spare. */
const RESERVED_DESCRIPTORS = 64;

/**
 * Descriptors of one claim: the lock file, the holder's socket, the runtime's pidfd of the holder. Once
 * it is granted, the holder's socket is closed.
 */
const DESCRIPTORS_PER_CLAIM = 3;
const DESCRIPTORS_PER_GRANT = 2;

/** Share of all descriptors that nobody may borrow: who comes back after a restart finds room. */
const UNBORROWED_SHARE = 1 / 16;

/** How many a user may have. */
export type UserLimits = Pick<AgentConfig, "maxConnectionsPerUser" | "maxClaimsPerUser">;

/** Counts connections and claims by user. */
export class Limits {
  readonly #max: UserLimits;
  readonly #maxDescriptors: number;
  readonly #connections = new Map<number, number>();
  readonly #claims = new Map<number, number>();
  #descriptors = RESERVED_DESCRIPTORS;

  /**
   * @param max How many a user may have.
   * @param maxDescriptors How many descriptors this process may have open.
   */
  constructor(max: UserLimits, maxDescriptors: number = readDescriptorLimit()) {
    this.#max = max;
    this.#maxDescriptors = maxDescriptors;
  }

  /**
   * Counts a connection.
   *
   * @param uid The user who connects.
   * @throws {WireError} `limit`: this one would be too many; it is not counted.
   */
  addConnection(uid: number): void {
    const { maxConnectionsPerUser } = this.#max;
    this.#add(this.#connections, uid, maxConnectionsPerUser, 1, "connect", "connections");
  }

  /**
   * Counts a connection's end.
   *
   * @param uid The user who connected.
   */
  removeConnection(uid: number): void {
    this.#remove(this.#connections, uid, 1);
  }

  /**
   * Counts a claim.
   *
   * @param uid The user who claims.
   * @throws {WireError} `limit`: this one would be too many; it is not counted.
   */
  addClaim(uid: number): void {
    const { maxClaimsPerUser } = this.#max;
    this.#add(this.#claims, uid, maxClaimsPerUser, DESCRIPTORS_PER_CLAIM, "claim", "claims");
  }

  /**
   * Counts a lock that a predecessor of this agent has granted: it is held already, so it is not
   * refused, however many there are.
   *
   * @param uid The user who has it.
   */
  addAdopted(uid: number): void {
    this.#claims.set(uid, (this.#claims.get(uid) ?? 0) + 1);
    this.#descriptors += DESCRIPTORS_PER_GRANT;
  }

  /**
   * Counts the end of a claim that was not granted.
   *
   * @param uid The user who claimed.
   */
  removeClaim(uid: number): void {
    this.#remove(this.#claims, uid, DESCRIPTORS_PER_CLAIM);
  }

  /** Counts that a claim was granted: it stays one of its user's, and takes less. */
  claimGranted(): void {
    this.#descriptors -= DESCRIPTORS_PER_CLAIM - DESCRIPTORS_PER_GRANT;
  }

  /**
   * Counts the end of what a granted claim gave.
   *
   * @param uid The user who claimed.
   */
  removeGrant(uid: number): void {
    this.#remove(this.#claims, uid, DESCRIPTORS_PER_GRANT);
  }

  /** Whether one more descriptor may be opened for something that can also do without; it is counted. */
  borrowDescriptor(): boolean {
    if (this.#descriptors >= this.#maxDescriptors * (1 - UNBORROWED_SHARE)) return false;
    this.#descriptors++;
    return true;
  }

  /** Counts the end of a borrowed descriptor. */
  returnDescriptor(): void {
    this.#descriptors--;
  }

  #add(
    counts: Map<number, number>,
    uid: number,
    max: number,
    descriptors: number,
    verb: string,
    what: string,
  ): void {
    const count = counts.get(uid) ?? 0;
    if (count >= max) {
      const message = `Cannot ${verb}: uid ${uid} has ${count} ${what}, the most one user may have`;
      throw new WireError("limit", message, { limit: what, max });
    }
    if (this.#descriptors + descriptors > this.#maxDescriptors) {
      const message =
        `Cannot ${verb}: the agent's limit of ${this.#maxDescriptors} open files is reached`;
      throw new WireError("limit", message, { limit: "descriptors", max: this.#maxDescriptors });
    }
    counts.set(uid, count + 1);
    this.#descriptors += descriptors;
  }

  #remove(counts: Map<number, number>, uid: number, descriptors: number): void {
    const count = counts.get(uid) ?? 0;
    if (count > 1) counts.set(uid, count - 1);
    else counts.delete(uid);
    this.#descriptors -= descriptors;
  }
}

/** The soft limit of open files; Bun raises it to the hard one by itself. */
function readDescriptorLimit(): number {
  const limits = readFileSync("/proc/self/limits", "utf8");
  const soft = /^Max open files +(\S+)/m.exec(limits)?.[1];
  return soft === undefined || soft === "unlimited" ? 1_048_576 : Number(soft);
}
