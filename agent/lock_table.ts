/**
 * The locks of this agent: the only state of it that changes.
 *
 * Invariants, each kept by the function named:
 *
 * 1. An ownership exists only while this process has an open descriptor of an open file description
 *    on which the kernel holds the lock (`claimInKernel` makes it, `#free` ends both).
 * 2. Before a grant is answered its path led to the locked inode, its token was counted, and its
 *    record was written (`claimInKernel`, `#grant`); only then does its holder outlive this process.
 * 3. Claims of one lock are tried one at a time, in the order they came (`#pump`): a claim never
 *    overtakes one that waits, and at most one of our holders waits in the kernel's queue. Only one
 *    that may take the lock over by force goes before those that can just wait (`enqueue`).
 * 4. The next try starts only when the last one's holder can no longer take the lock (`claimInKernel`
 *    waits for its end), nor one that was to replace a killed holder (`#replaceHolder`): so we never
 *    contend with what we gave up ourselves.
 * 5. A claim is settled once: granted, or refused with the first cause (`PendingClaim.settle`).
 * 6. A lock with no ownerships, no claims and no holder on its way has no entry (`#pump`).
 * 7. An ownership ends with the last of its grants; the grant of a session that ends stays until the
 *    session's processes are cleared away (`beginEnd`, `finishEnd`), and nobody joins it meanwhile.
 * 8. An ownership whose file was replaced stays until its sessions have ended like any other, and no
 *    claim is granted beside it meanwhile (`#checkFile`, `waitsForCleanUp`): the kernel's lock on the
 *    old file keeps nobody out.
 * 9. A parked ownership has no grants, and only its owner gets it (`#park`, `#unpark`): the kernel's
 *    lock is kept all the while, the token is a new one.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import {
  type ChangeEvent,
  type ChangeParams,
  type ClaimParams,
  type ClaimResult,
  type HolderFacts,
  type LockFacts,
  type LossReason,
  type ReleaseResult,
} from "../protocol/messages.ts";
import { WireError } from "../protocol/wire_error.ts";
import type { EndPolicy } from "./clean_up.ts";
import type { AgentConfig } from "./config.ts";
import { crashPoint } from "./crash_points.ts";
import { findForeignHoldersOf } from "./foreign_holders.ts";
import type { Holder, HolderProcess } from "./holder.ts";
import { explain, type StatusPage } from "./host_status.ts";
import { claimInKernel, type KernelClaimParts, unlock } from "./kernel_claim.ts";
import type { Limits } from "./limits.ts";
import {
  emptyEntry,
  enqueue,
  factsOf,
  grantOf,
  isCompatible,
  isReservedFor,
  joinable,
  type LockEntry,
  partsOfEntry,
} from "./lock_entry.ts";
import { isStillThere, type LockFile } from "./lock_file.ts";
import type { Log } from "./log.ts";
import {
  type Claimant,
  type EndCause,
  eventFacts,
  factsOfGrant,
  type Grant,
  heldMsOf,
  isOver,
  type Ownership,
  partsOf,
} from "./ownership.ts";
import { startNewHolder } from "./new_holder.ts";
import { NextRun } from "./next_run.ts";
import { PendingClaim } from "./pending_claim.ts";
import { Recorder } from "./recorder.ts";
import { type OwnershipRecord, partsOfRecord, type Records } from "./records.ts";
import { alreadyClaimed, cancelled, checkParking, contended, notRecorded } from "./refusals.ts";
import { endGuard, guardNewFile } from "./replaced_file.ts";
import type { Rights } from "./rights.ts";
import { Takeovers } from "./takeovers.ts";
import type { TokenStore } from "./token_store.ts";

/** Holders that are started at once: each start takes a millisecond in which nobody else is heard. */
const MAX_STARTING = 4;

/** The strictest first. */
const END_POLICIES: readonly EndPolicy[] = ["kill", "drain", "leave"];

/** What a table works with. */
export interface LockTableParts extends KernelClaimParts {
  /** Counts tokens. */
  tokens: TokenStore;
  /** Where grants are recorded. */
  records: Records;
  /** What a user may have at once. */
  limits: Limits;
  /** Where events go. */
  log: Log;
  /** What becomes of a session's processes where its claim does not say. */
  config: Pick<AgentConfig, "onEnd" | "graceMs" | "takeoverDeadlineMs" | "maxParkMs">;
  /** Whether a held lock outlives this process. */
  outlivesAgent: boolean;
  /** Who may take a lock over by force. */
  rights: Rights;
}

/** The locks of one agent, who has them and who waits for them. */
export class LockTable {
  readonly #parts: LockTableParts;
  readonly #takeovers: Takeovers;
  readonly #entries = new Map<string, LockEntry>();
  readonly #byClaimant = new Map<Claimant, Set<LockEntry>>();
  readonly #watchers = new Set<(change: ChangeParams) => void>();
  readonly #recorder: Recorder;
  /** Claims whose holder has not answered yet. */
  readonly #starting = new Set<PendingClaim>();
  /** Locks whose first claim waits for its turn to be tried. */
  readonly #deferred = new Set<LockEntry>();
  #ownershipCount = 0;

  /** Called when the first lock is granted (`true`) and when the last one has ended (`false`). */
  onHolding: ((isHolding: boolean) => void) | undefined;

  /**
   * @param parts What the table works with.
   */
  constructor(parts: LockTableParts) {
    this.#parts = parts;
    const { rights, log, records } = parts;
    this.#recorder = new Recorder({
      ...{ records, log },
      entryOf: (name) => this.#entries.get(name) ?? emptyEntry(name),
    });
    this.#takeovers = new Takeovers({
      rights,
      log,
      announce: (event, claimant, entry) => this.#announce(event, claimant, entry),
      end: (grant, cause) => this.#endByForce(grant, cause),
    });
  }

  /** How many ownerships there are. */
  get ownershipCount(): number {
    return this.#ownershipCount;
  }

  /**
   * Claims a lock.
   *
   * When it resolves, the kernel holds the lock and its record is written.
   *
   * @param claimant Who claims.
   * @param params What is claimed.
   * @throws {WireError} `contended`, `already-claimed`, `lock-file`, `no-token`, `holder-failed`,
   * `limit`; `cancelled` when the session ends first.
   */
  claim(claimant: Claimant, params: ClaimParams): Promise<ClaimResult> {
    return new Promise((resolve, reject) => {
      this.#refuseSecondClaim(claimant, params.name);
      checkParking(params, this.#parts.config);
      this.#parts.limits.addClaim(claimant.peer.uid);
      const entry = this.#entryOf(params.name);
      const { takeoverDeadlineMs } = this.#parts.config;
      const rights = { mayForce: this.#takeovers.mayForce(entry, claimant), takeoverDeadlineMs };
      const claim = new PendingClaim(claimant, params, rights, { resolve, reject });
      const own = joinable(entry, claim);
      if (own !== undefined) return this.#join(entry, own, claim);
      this.#index(claimant).add(entry);
      enqueue(entry.queue, claim);
      crashPoint("claim.queued");
      const reserved = entry.ownerships.find((ownership) => isReservedFor(ownership, claim));
      if (reserved !== undefined) return this.#unpark(entry, reserved, claim);
      if (claim.waitMs > 0) claim.limitWait(() => void this.#refuse(entry, claim));
      const { attempt } = entry;
      // The kernel would serve the one that stands in its queue first.
      if (claim.isForced && attempt?.isForced === false) attempt.withdraw();
      this.#takeovers.ask(entry);
      this.#pump(entry);
      if (!claim.isSettled && entry.attempt !== claim) this.#tellQueued(entry, claim);
    });
  }

  /**
   * Gives a lock back, or takes a claim back that still waits.
   *
   * @param claimant Who has the lock.
   * @param name The lock.
   * @throws {WireError} `not-held`: this session has neither.
   */
  release(claimant: Claimant, name: string): ReleaseResult {
    const entry = this.#entries.get(name);
    const grant = entry === undefined ? undefined : grantOf(entry, claimant);
    if (entry !== undefined && grant !== undefined) {
      const heldMs = heldMsOf(grant.ownership);
      this.#end(entry, grant, "released");
      crashPoint("release.unlocked");
      return { name, token: grant.ownership.token, heldMs };
    }
    const claim = entry?.queue.find((claim) => claim.claimant === claimant);
    if (entry !== undefined && claim !== undefined) {
      this.#cancel(entry, claim, "the claim was taken back");
      return { name, token: 0, heldMs: 0 };
    }
    throw new WireError("not-held", `Cannot release "${name}": this session does not have it`, {
      name,
    });
  }

  /**
   * Takes back the claims of a session that still wait.
   *
   * @param claimant The session.
   * @param detail Why.
   */
  cancelClaims(claimant: Claimant, detail: string): void {
    for (const entry of [...this.#byClaimant.get(claimant) ?? []]) {
      for (const claim of entry.queue.filter((claim) => claim.claimant === claimant)) {
        this.#cancel(entry, claim, detail);
      }
    }
  }

  /**
   * Takes back every claim that waits, because the agent ends; what is held stays held.
   *
   * @param detail Why, for the sessions.
   */
  cancelAll(detail: string): void {
    for (const claimant of [...this.#byClaimant.keys()]) this.cancelClaims(claimant, detail);
  }

  /**
   * Begins the end of a session: it is told, and its claims are taken back. Its locks stay taken until
   * {@linkcode finishEnd}.
   *
   * @param claimant The session.
   * @param cause Why.
   * @returns What is to become of its processes: the policies of its locks, the strictest first, and
   * the longest grace.
   */
  beginEnd(claimant: Claimant, cause: EndCause): { policies: EndPolicy[]; graceMs: number } {
    this.cancelClaims(claimant, cause.detail);
    const grants = this.#grantsOf(claimant);
    for (const grant of grants) {
      this.#notifyLoss(grant, cause.reason, cause.detail);
      this.#announce("ending", claimant, this.#entryOf(grant.ownership.name));
    }
    const policies = END_POLICIES.filter((policy) => grants.some(({ onEnd }) => onEnd === policy));
    return { policies, graceMs: Math.max(0, ...grants.map((grant) => grant.graceMs)) };
  }

  /**
   * Frees all locks of a session whose processes are gone, but for those that are reserved for their
   * owner from now on. They are free when this returns.
   *
   * @param claimant The session.
   * @param cause Why it has ended.
   * @param policies Only locks with one of these; absent: all.
   */
  finishEnd(claimant: Claimant, cause: EndCause, policies = END_POLICIES): void {
    for (const grant of this.#grantsOf(claimant)) {
      if (policies.includes(grant.onEnd)) this.#endOrPark(grant, cause);
    }
  }

  /**
   * Takes over a lock of a predecessor of this agent.
   *
   * @param name The lock.
   * @param record What was recorded of the ownership.
   * @param file The open file description that has the lock.
   * @param holder Its holder.
   * @param claimants The sessions that have it, in the order of the record's grants; for a parked
   * one, the session that had it last.
   */
  adopt(
    name: string,
    record: OwnershipRecord,
    file: LockFile,
    holder: Holder,
    claimants: Claimant[],
  ): void {
    const entry = this.#entryOf(name);
    const { owner, uid, shared, token, since } = record;
    const sinceAt = performance.now() - Math.max(0, Date.now() - since);
    const ownership: Ownership = {
      ...{ name, owner, uid, shared, token, since, sinceAt, file, holder },
      grants: [],
      ...{ isReplaced: false, guard: undefined, parked: undefined },
    };
    for (const [index, { purpose, onEnd, graceMs, parkMs }] of partsOfRecord(record).entries()) {
      const claimant = claimants[index]!;
      this.#parts.limits.addAdopted(claimant.record.peer.uid);
      ownership.grants.push({ ownership, claimant, purpose, onEnd, graceMs, parkMs });
      this.#index(claimant).add(entry);
    }
    this.#own(entry, ownership);
    for (const grant of ownership.grants) this.#parts.log("lock-adopted", eventFacts(grant));
    // Once all ownerships of the record are here: until then the predecessor's record explains more.
    if (record.parked === undefined) return this.#recordLater(name);
    // The wall clock may have jumped: that may cost the owner time, and others no more than parkMs.
    const [grant] = ownership.grants as [Grant];
    const leftMs = Math.min(Math.max(0, record.parked.until - Date.now()), grant.parkMs);
    this.#park(entry, grant, leftMs);
  }

  /**
   * The locks of a session, as its claims were answered.
   *
   * @param claimant The session.
   */
  grantsOf(claimant: Claimant): ClaimResult[] {
    return this.#grantsOf(claimant).map(({ ownership: { name, token, holder, shared } }) => ({
      ...{ name, token, holderPid: holder.pid, shared, waitedMs: 0 },
    }));
  }

  /**
   * Who has a lock, and how that is ended: the sessions that have it, or the owner it is reserved for.
   *
   * @param name The lock.
   */
  endingsOf(name: string): { owner: string; uid: number; end(cause: EndCause): void }[] {
    const entry = this.#entries.get(name);
    if (entry === undefined) return [];
    return partsOfEntry(entry).map((grant) => ({
      owner: grant.claimant.owner,
      uid: grant.claimant.peer.uid,
      end: (cause) => this.#endByForce(grant, cause),
    }));
  }

  /**
   * Tells a session that has come back who has asked for its locks meanwhile.
   *
   * @param claimant The session.
   */
  repeatTakeovers(claimant: Claimant): void {
    for (const grant of this.#grantsOf(claimant)) {
      this.#takeovers.repeat(this.#entryOf(grant.ownership.name), grant);
    }
  }

  /**
   * Writes the records of a session's locks anew, because more is known of it.
   *
   * @param claimant The session.
   */
  recordOf(claimant: Claimant): void {
    // Not for claims: an entry that one of them was refused at may be a lock's no longer, and another
    // session's grant may be on record by now.
    for (const { ownership } of this.#grantsOf(claimant)) {
      this.#record(this.#entryOf(ownership.name));
    }
  }

  /**
   * Tells watchers that something has become of a session that has locks.
   *
   * @param event What.
   * @param claimant The session.
   */
  announceSession(event: "detached" | "resumed" | "ending", claimant: Claimant): void {
    for (const { ownership } of this.#grantsOf(claimant)) {
      this.#announce(event, claimant, this.#entryOf(ownership.name));
    }
  }

  /** Whether a session has or wants any lock. */
  concerns(claimant: Claimant): boolean {
    return this.#byClaimant.has(claimant);
  }

  /**
   * Ends the sessions of locks whose file is no longer the one that was locked; one without a
   * connection when it comes back.
   *
   * @param page Which of them; absent: all.
   */
  checkFiles(page: StatusPage = {}): void {
    for (const entry of this.#select(page)) this.#checkEntry(entry);
  }

  /**
   * Ends a session if the file of one of its locks is no longer the one that was locked.
   *
   * @param claimant The session.
   */
  checkFilesOf(claimant: Claimant): void {
    for (const { ownership } of this.#grantsOf(claimant)) this.#checkFile(ownership);
  }

  /**
   * The locks that are held here or waited for, by name.
   *
   * @param page Which of them; absent: all.
   */
  facts(page: StatusPage = {}): LockFacts[] {
    return this.#select(page).map(factsOf);
  }

  #select({ name, after = "", limit = Infinity }: StatusPage): LockEntry[] {
    const names = name === undefined ? [...this.#entries.keys()] : [name];
    return names.filter((name) => name > after && this.#entries.has(name)).sort().slice(0, limit)
      .map((name) => this.#entries.get(name)!);
  }

  /** The pids of all holders of this agent, the spare and the waiting ones included. */
  holderPids(): Set<number> {
    const pids = new Set<number>();
    const { sparePid } = this.#parts.pool;
    if (sparePid !== undefined) pids.add(sparePid);
    for (const entry of this.#entries.values()) {
      for (const { holder } of entry.ownerships) pids.add(holder.pid);
      if (entry.attempt?.holder !== undefined) pids.add(entry.attempt.holder.pid);
    }
    return pids;
  }

  /**
   * Calls back after every change.
   *
   * @param watcher Called with what happened and the lock as it is now.
   * @returns Ends the watching.
   */
  watch(watcher: (change: ChangeParams) => void): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  // ---- claims ----------------------------------------------------------------------------------

  #refuseSecondClaim(claimant: Claimant, name: string): void {
    const entry = this.#entries.get(name);
    if (entry === undefined || this.#byClaimant.get(claimant)?.has(entry) !== true) return;
    throw alreadyClaimed(name);
  }

  /** Refuses what can neither be had now nor wait, and tries the first of the rest. */
  #pump(entry: LockEntry): void {
    for (const claim of entry.queue.filter((claim) => claim.waitMs === 0)) {
      const isBlocked = entry.attempt?.isQueued === true || !isCompatible(entry, claim);
      if (isBlocked && claim !== entry.attempt) void this.#refuse(entry, claim);
    }
    const [first] = entry.queue;
    const mayStart = first !== undefined && !waitsForCleanUp(entry, first) &&
      entry.replacements === 0;
    if (entry.attempt === undefined && mayStart) this.#start(entry);
    const isEmpty = entry.ownerships.length + entry.queue.length + entry.replacements === 0 &&
      entry.attempt === undefined;
    if (isEmpty && this.#entries.get(entry.name) === entry) this.#entries.delete(entry.name);
  }

  /** Tries the first claim now, or when fewer holders are being started. */
  #start(entry: LockEntry): void {
    if (this.#starting.size >= MAX_STARTING) {
      this.#deferred.add(entry);
      return;
    }
    const claim = entry.attempt = entry.queue[0]!;
    claim.isWithdrawn = claim.isQueued = false;
    claim.holder = undefined;
    this.#starting.add(claim);
    void this.#attempt(entry, claim);
  }

  /** A claim's holder waits or is done: it is another's turn, after what else there is to do. */
  #finishStart(claim: PendingClaim): void {
    if (!this.#starting.delete(claim) || this.#deferred.size === 0) return;
    setImmediate(() => this.#startDeferred());
  }

  #startDeferred(): void {
    for (const entry of this.#deferred) {
      if (this.#starting.size >= MAX_STARTING) return;
      this.#deferred.delete(entry);
      this.#pump(entry);
    }
  }

  async #attempt(entry: LockEntry, claim: PendingClaim): Promise<void> {
    try {
      const onWaiting = () => this.#markQueued(entry, claim);
      const outcome = await claimInKernel(this.#parts, claim, onWaiting);
      if (outcome.kind === "busy") throw await this.#contended(entry, claim);
      if (outcome.kind === "locked") {
        // An ownership whose file was replaced may not have been found yet; its sessions end first.
        this.#checkEntry(entry);
        if (waitsForCleanUp(entry, claim)) await this.#putBack(entry, claim, outcome);
        else this.#grant(entry, claim, outcome);
      }
    } catch (error) {
      this.#settleRefused(entry, claim, error as Error);
    } finally {
      entry.attempt = undefined;
      this.#finishStart(claim);
      this.#pump(entry);
    }
  }

  /** The new file is free, but processes of a session that had the old one are still there. */
  async #putBack(
    entry: LockEntry,
    claim: PendingClaim,
    { file, holder }: { file: LockFile; holder: HolderProcess },
  ): Promise<void> {
    unlock(file, holder);
    this.#checkEntry(entry);
    await holder.ended;
    if (claim.waitMs === 0) throw await this.#contended(entry, claim);
    this.#tellQueued(entry, claim);
  }

  #grant(
    entry: LockEntry,
    claim: PendingClaim,
    { file, holder }: { file: LockFile; holder: HolderProcess },
  ): void {
    const { outlivesAgent, pool } = this.#parts;
    const ownership = this.#toOwnership(claim, file, holder);
    remove(entry.queue, claim);
    this.#addGrant(ownership, claim);
    claim.claimant.onGranted(ownership.token);
    this.#own(entry, ownership);
    crashPoint("grant.owned");
    const error = this.#record(entry);
    crashPoint("grant.recorded");
    if (error !== undefined && outlivesAgent) {
      ownership.grants.length = 0;
      this.#free(entry, ownership);
      throw notRecorded(entry.name, error);
    }
    // From here on an end of this process leaves the lock with its session, not with nobody.
    if (outlivesAgent) holder.untie();
    this.#settleGranted(entry, ownership, claim, {});
    crashPoint("grant.settled");
    this.#takeovers.ask(entry);
    pool.refill();
  }

  #toOwnership(claim: PendingClaim, file: LockFile, holder: HolderProcess): Ownership {
    const { claimant: { owner, peer: { uid } }, shared, params: { name } } = claim;
    try {
      const token = this.#parts.tokens.next();
      const [since, sinceAt] = [Date.now(), performance.now()];
      const facts = { name, owner, uid, shared, token, since, sinceAt };
      const isWhole = { isReplaced: false, guard: undefined, parked: undefined };
      return { ...facts, file, holder, grants: [], ...isWhole };
    } catch (error) {
      unlock(file, holder);
      throw error;
    }
  }

  /** A session of the same owner has the lock: this one shares its ownership. */
  #join(entry: LockEntry, ownership: Ownership, claim: PendingClaim): void {
    this.#index(claim.claimant).add(entry);
    this.#addGrant(ownership, claim);
    claim.claimant.onGranted(ownership.token);
    const error = this.#record(entry);
    crashPoint("join.recorded");
    if (error !== undefined && this.#parts.outlivesAgent) {
      ownership.grants.pop();
      // Its holder may have been told of it.
      this.#record(entry);
      return this.#settleRefused(entry, claim, notRecorded(entry.name, error));
    }
    this.#settleGranted(entry, ownership, claim, { joined: true });
    this.#takeovers.ask(entry);
  }

  #addGrant(ownership: Ownership, { claimant, params }: PendingClaim): void {
    const { config } = this.#parts;
    const { purpose, onEnd = config.onEnd, graceMs = config.graceMs, parkMs = 0 } = params;
    ownership.grants.push({ ownership, claimant, purpose, onEnd, graceMs, parkMs });
  }

  #own(entry: LockEntry, ownership: Ownership): void {
    entry.ownerships.push(ownership);
    ownership.holder.onDeath = () => void this.#replaceHolder(entry, ownership);
    if (++this.#ownershipCount === 1) this.onHolding?.(true);
  }

  #settleGranted(
    entry: LockEntry,
    { name, token, holder, shared, grants }: Ownership,
    claim: PendingClaim,
    how: { joined?: true; unparked?: true },
  ): void {
    claim.settle();
    this.#parts.limits.claimGranted();
    const { waitedMs, takeover } = claim;
    const takenFrom = [...takeover?.askedOwners ?? []];
    const extra = takenFrom.length === 0 ? how : { ...how, takenFrom };
    claim.resolve({ name, token, holderPid: holder.pid, shared, waitedMs, ...extra });
    this.#parts.log("lock-granted", { ...eventFacts(grants.at(-1)!), waitedMs, ...extra });
    this.#announce("granted", claim.claimant, entry);
  }

  #markQueued(entry: LockEntry, claim: PendingClaim): void {
    claim.isQueued = true;
    crashPoint("claim.waiting");
    this.#finishStart(claim);
    this.#tellQueued(entry, claim);
    this.#pump(entry);
  }

  #tellQueued(entry: LockEntry, claim: PendingClaim): void {
    const position = entry.queue.indexOf(claim) + 1;
    if (claim.isSettled || position === 0 || claim.waitMs === 0) return;
    void this.#holdersOf(entry).then(([holder]) => {
      if (!claim.isSettled) claim.claimant.notifyQueued({ name: entry.name, position, holder });
    });
    this.#announce("queued", claim.claimant, entry);
  }

  /** Refuses a claim that may not wait or has waited long enough. */
  async #refuse(entry: LockEntry, claim: PendingClaim): Promise<void> {
    if (!claim.settle()) return;
    remove(entry.queue, claim);
    if (entry.attempt === claim) claim.holder?.kill();
    const error = await this.#contended(entry, claim);
    this.#dismiss(entry, claim, error);
  }

  #cancel(entry: LockEntry, claim: PendingClaim, detail: string): void {
    if (!claim.settle()) return;
    if (entry.attempt === claim) claim.holder?.kill();
    crashPoint("claim.cancelled");
    remove(entry.queue, claim);
    this.#dismiss(entry, claim, cancelled(entry.name, detail));
  }

  #settleRefused(entry: LockEntry, claim: PendingClaim, error: Error): void {
    if (!claim.settle()) return;
    remove(entry.queue, claim);
    this.#dismiss(entry, claim, error);
    this.#parts.pool.refill();
  }

  #dismiss(entry: LockEntry, claim: PendingClaim, error: Error): void {
    this.#parts.limits.removeClaim(claim.claimant.peer.uid);
    this.#unindex(claim.claimant, entry);
    claim.reject(error);
    const { owner, peer } = claim.claimant;
    this.#parts.log("claim-refused", {
      name: entry.name,
      owner,
      peerPid: peer.pid,
      uid: peer.uid,
      code: error instanceof WireError ? error.code : "internal",
      message: error.message,
    });
    this.#announce("left", claim.claimant, entry);
    this.#pump(entry);
  }

  async #contended(entry: LockEntry, claim: PendingClaim): Promise<WireError> {
    return contended(entry, claim, await this.#holdersOf(entry));
  }

  #endByForce(grant: Grant, cause: EndCause): void {
    const { ownership, claimant } = grant;
    if (ownership.parked === undefined) claimant.end(cause);
    else this.#endPark(ownership, cause.detail);
  }

  // ---- parking ---------------------------------------------------------------------------------

  /** Only a dropped link reserves the lock, and only the last session of the owner. */
  #endOrPark(grant: Grant, { reason }: EndCause): void {
    const { ownership: { name, grants }, parkMs } = grant;
    const entry = this.#entryOf(name);
    const isDropped = reason === "session-ended" || reason === "silence";
    const isLast = grants.length === 1 && grants.includes(grant);
    const isWorthIt = parkMs > 0 && !grant.ownership.isReplaced;
    if (isWorthIt && isDropped && isLast) this.#park(entry, grant, parkMs);
    else this.#end(entry, grant, "lost");
  }

  #park(entry: LockEntry, grant: Grant, leftMs: number): void {
    const { ownership, claimant } = grant;
    remove(ownership.grants, grant);
    const timer = setTimeout(() => this.#endPark(ownership, "its owner has not come back"), leftMs);
    ownership.parked = { grant, until: Date.now() + leftMs, timer };
    this.#record(entry);
    crashPoint("park.recorded");
    this.#parts.log("lock-parked", { ...eventFacts(grant), parkMs: leftMs });
    this.#announce("parked", claimant, entry);
    this.#unindex(claimant, entry);
    const back = entry.queue.find((claim) => isReservedFor(ownership, claim));
    if (back !== undefined) return this.#unpark(entry, ownership, back);
    this.#takeovers.ask(entry);
    this.#pump(entry);
  }

  /** The owner is back: the lock in the kernel is the same, the token a new one. */
  #unpark(entry: LockEntry, ownership: Ownership, claim: PendingClaim): void {
    const { tokens, limits } = this.#parts;
    try {
      ownership.token = tokens.next();
    } catch (error) {
      return this.#settleRefused(entry, claim, error as Error);
    }
    [ownership.since, ownership.sinceAt] = [Date.now(), performance.now()];
    const parked = ownership.parked!;
    ownership.parked = undefined;
    this.#addGrant(ownership, claim);
    claim.claimant.onGranted(ownership.token);
    const error = this.#record(entry);
    crashPoint("unpark.recorded");
    if (error !== undefined && this.#parts.outlivesAgent) {
      // The record says that it is reserved, and so it is.
      ownership.grants.pop();
      ownership.parked = parked;
      this.#record(entry);
      return this.#settleRefused(entry, claim, notRecorded(entry.name, error));
    }
    clearTimeout(parked.timer);
    limits.removeGrant(parked.grant.claimant.peer.uid);
    remove(entry.queue, claim);
    // It may stand in the kernel's queue for the lock that it has now.
    if (entry.attempt === claim) claim.holder?.kill();
    this.#settleGranted(entry, ownership, claim, { unparked: true });
    this.#takeovers.ask(entry);
  }

  #endPark(ownership: Ownership, detail: string): void {
    const { parked, name } = ownership;
    if (parked === undefined) return;
    const { grant: { claimant }, timer } = parked;
    const facts = eventFacts(parked.grant);
    clearTimeout(timer);
    ownership.parked = undefined;
    const entry = this.#entryOf(name);
    this.#free(entry, ownership);
    this.#parts.limits.removeGrant(claimant.peer.uid);
    this.#parts.log("park-ended", { ...facts, detail });
    this.#announce("park-over", claimant, entry);
    this.#pump(entry);
  }

  // ---- grants ----------------------------------------------------------------------------------

  /** Starts a new holder for a lock whose holder was killed; our descriptor has kept it meanwhile. */
  async #replaceHolder(entry: LockEntry, ownership: Ownership): Promise<void> {
    if (isOver(ownership)) return;
    this.#parts.log("holder-died", eventFacts(partsOf(ownership)[0]!));
    entry.replacements++;
    try {
      await this.#startNewHolder(entry, ownership);
    } finally {
      entry.replacements--;
      this.#pump(entry);
    }
  }

  async #startNewHolder(entry: LockEntry, ownership: Ownership): Promise<void> {
    const hasNew = await startNewHolder(this.#parts, ownership, {
      // On record before it can have the lock: should this process end meanwhile, the next agent
      // finds whose it is.
      onStart: (holder) => {
        ownership.holder = holder;
        if (!isOver(ownership)) this.#record(entry);
      },
      onDeath: () => void this.#replaceHolder(entry, ownership),
    });
    const detail = "its holder was killed and none could be started";
    if (!hasNew && !isOver(ownership)) this.#lose(ownership, { reason: "holder-failed", detail });
  }

  #checkEntry({ ownerships }: LockEntry): void {
    for (const ownership of [...ownerships]) this.#checkFile(ownership);
  }

  #checkFile(ownership: Ownership): void {
    const { file } = ownership;
    const isLost = ownership.isReplaced || !isStillThere(file);
    if (isOver(ownership) || !isLost) return;
    ownership.isReplaced = true;
    const detail = `lock file ${file.path} was removed or replaced`;
    guardNewFile(this.#parts, ownership);
    this.#lose(ownership, { reason: "lock-file-replaced", detail });
  }

  /**
   * Ends the sessions that have it, as a break does: nobody knows which of a session's processes act
   * under which of its locks. One that is ending has been told its first cause.
   */
  #lose(ownership: Ownership, cause: EndCause): void {
    this.#endPark(ownership, cause.detail);
    for (const { claimant } of [...ownership.grants]) {
      // It cannot be told now. It ends when it is back, or is silent; until then nobody joins it.
      if (ownership.isReplaced && claimant.state === "detached") continue;
      claimant.end(cause);
    }
  }

  #notifyLoss(grant: Grant, reason: LossReason, detail: string): void {
    const { name, token } = grant.ownership;
    this.#parts.log("lock-lost", { ...eventFacts(grant), reason, detail });
    grant.claimant.notifyLost({ name, token, reason, detail });
  }

  #end(entry: LockEntry, grant: Grant, how: "released" | "lost"): void {
    const { ownership, claimant } = grant;
    if (!ownership.grants.includes(grant)) return;
    remove(ownership.grants, grant);
    const isLast = ownership.grants.length === 0;
    if (isLast) this.#free(entry, ownership);
    // What others still have must not come back to this session with the next agent.
    else this.#record(entry);
    this.#parts.limits.removeGrant(claimant.peer.uid);
    this.#parts.log("lock-ended", {
      ...eventFacts(grant),
      how,
      isFree: isLast,
      heldMs: heldMsOf(ownership),
    });
    this.#announce(how, claimant, entry);
    this.#unindex(claimant, entry);
    this.#pump(entry);
  }

  #free(entry: LockEntry, ownership: Ownership): void {
    const { file, holder } = ownership;
    if (this.#parts.outlivesAgent) {
      unlock(file, holder);
    } else {
      // A `run` inside one without an agent may have joined with a descriptor of its own.
      holder.kill();
      file.close();
    }
    endGuard(this.#parts.limits, ownership);
    crashPoint("end.unlocked");
    remove(entry.ownerships, ownership);
    if (--this.#ownershipCount === 0) this.onHolding?.(false);
    this.#recordLater(entry.name);
  }

  // ---- facts -----------------------------------------------------------------------------------

  /** Thousands may wait for a foreign holder and ask who it is: one look answers all of them. */
  #holdersOf(entry: LockEntry): Promise<HolderFacts[]> {
    if (entry.ownerships.length > 0) return Promise.resolve(partsOfEntry(entry).map(factsOfGrant));
    entry.look ??= new NextRun(() => this.#findForeignHolders(entry.name));
    return entry.look.ask();
  }

  async #findForeignHolders(name: string): Promise<HolderFacts[]> {
    try {
      const { lockDir, records } = this.#parts;
      const foreign = await findForeignHoldersOf(lockDir, name, this.holderPids());
      const ownerships = records.read(name)?.ownerships ?? [];
      return foreign.map((holder) => explain(holder, ownerships));
    } catch (error) {
      return [{ kind: "foreign", hiddenBecause: (error as Error).message }];
    }
  }

  #announce(event: ChangeEvent, { owner }: Claimant, entry: LockEntry): void {
    if (this.#watchers.size === 0) return;
    const lock = factsOf(entry);
    for (const watcher of this.#watchers) watcher({ event, owner, lock });
  }

  /** What stood in the way of the record; a lock that is held stays held without it. */
  #record(entry: LockEntry): Error | undefined {
    return this.#recorder.write(entry);
  }

  /** A lock that has ended is free already: its record may wait until the next claim is under way. */
  #recordLater(name: string): void {
    // Without an agent this process ends before its next turn.
    if (this.#parts.outlivesAgent) this.#recorder.writeLater(name);
    else this.#record(this.#entryOf(name));
  }

  // ---- bookkeeping -----------------------------------------------------------------------------

  #entryOf(name: string): LockEntry {
    let entry = this.#entries.get(name);
    if (entry === undefined) {
      entry = emptyEntry(name);
      this.#entries.set(name, entry);
    }
    return entry;
  }

  #index(claimant: Claimant): Set<LockEntry> {
    let entries = this.#byClaimant.get(claimant);
    if (entries === undefined) {
      this.#byClaimant.set(claimant, entries = new Set());
      claimant.onActive();
    }
    return entries;
  }

  #unindex(claimant: Claimant, entry: LockEntry): void {
    const entries = this.#byClaimant.get(claimant);
    entries?.delete(entry);
    if (entries?.size !== 0) return;
    this.#byClaimant.delete(claimant);
    claimant.onIdle();
  }

  #grantsOf(claimant: Claimant): Grant[] {
    const entries = [...this.#byClaimant.get(claimant) ?? []];
    return entries.flatMap((entry) => grantOf(entry, claimant) ?? []);
  }
}

/** The kernel keeps nobody out for the sake of a file that was replaced; we do, for our own claims. */
function waitsForCleanUp(entry: LockEntry, claim: PendingClaim): boolean {
  return entry.ownerships.some(({ isReplaced }) => isReplaced) && !isCompatible(entry, claim);
}

function remove<T>(list: T[], item: T): void {
  const index = list.indexOf(item);
  if (index >= 0) list.splice(index, 1);
}
