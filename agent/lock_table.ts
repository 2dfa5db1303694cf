/**
 * The locks of this agent: the only state of it that changes.
 *
 * Invariants, each kept by the function named:
 *
 * 1. An ownership exists only while this process has an open descriptor of an open file description
 *    on which the kernel holds the lock (`#acquire` makes it, `#unlock` ends both).
 * 2. Before a grant is answered its path led to the locked inode, its token was counted, and its
 *    record was written (`#acquire`, `#grant`); only then does its holder outlive this process.
 * 3. Claims of one lock are tried one at a time, in the order they came (`#pump`): a claim never
 *    overtakes one that waits, and at most one of our holders waits in the kernel's queue.
 * 4. The next try starts only when the last one's holder can no longer take the lock (`#attempt`
 *    waits for its end), so we never contend with what we gave up ourselves.
 * 5. A claim is settled once: granted, or refused with the first cause (`PendingClaim.settle`).
 * 6. A lock with no ownerships and no claims has no entry (`#pump`).
 * 7. An ownership ends with the last of its grants; the grant of a session that ends stays until the
 *    session's processes are cleared away (`beginEnd`, `finishEnd`), and nobody joins it meanwhile.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import process from "node:process";
import {
  type ChangeParams,
  type ClaimParams,
  type ClaimResult,
  type ContendedFacts,
  describeHolder,
  type HolderFacts,
  type LockFacts,
  type LossReason,
  type LostParams,
  type OwnHolder,
  type ProcessFacts,
  type QueuedParams,
  type ReleaseResult,
} from "../protocol/messages.ts";
import { GRACE_MS } from "../protocol/limits.ts";
import { WireError } from "../protocol/wire_error.ts";
import type { EndPolicy } from "./clean_up.ts";
import type { Holder, HolderPool, HolderProcess } from "./holder.ts";
import { explain } from "./host_status.ts";
import { findForeignHoldersOf } from "./kernel_locks.ts";
import { flock, LOCK_UN } from "./libc.ts";
import type { Limits } from "./limits.ts";
import { isStillThere, type LockFile, openLockFile } from "./lock_file.ts";
import type { Log } from "./log.ts";
import type { Peer } from "./peer.ts";
import { readBootId, readPidNamespace, readStat } from "./proc.ts";
import type { OwnershipRecord, Records, SessionRecord } from "./records.ts";
import type { TokenStore } from "./token_store.ts";
import { userName } from "./users.ts";

/** How often a lock file may be replaced between locking it and looking, before a claim gives up. */
const MAX_REPLACEMENTS = 10;

/** How often a killed holder is replaced in a row without success before its lock is lost. */
const MAX_HOLDER_RESTARTS = 5;

/** Pause between two such tries, in milliseconds: the host may be out of processes. */
const HOLDER_RESTART_PAUSE_MS = 200;

/** Holders that are started at once: each start takes a millisecond in which nobody else is heard. */
const MAX_STARTING = 4;

/** What the table knows of a session. */
export interface Claimant {
  /** Whether it is there, without a connection, or ending. */
  readonly state: "held" | "detached" | "ending";
  /** The processes that its end waits for. */
  readonly awaiting: ProcessFacts[];
  /** What is recorded of it. */
  readonly record: SessionRecord;
  /** Called when it claims for the first time since it was idle. */
  onActive(): void;
  /** Called before a grant of its is recorded. */
  onGranted(token: number): void;
  /** Called when it has and wants nothing any longer. */
  onIdle(): void;
  /** The identity that claims are made under. */
  readonly owner: string;
  /** The process at the other end. */
  readonly peer: Peer;
  /** Address of the SSH client, once it is known. */
  readonly clientAddress: string | undefined;
  /** When the session was last heard of, on the monotonic clock, in milliseconds. */
  readonly lastHeardAt: number;
  /** Tells the session that its claim waits. */
  notifyQueued(params: QueuedParams): void;
  /** Tells the session that a lock is lost. */
  notifyLost(params: LostParams): void;
}

/** What a table works with. */
export interface LockTableParts {
  /** The folder of the lock files. */
  lockDir: string;
  /** Group of new lock files; absent: the agent's own. */
  gid: number | undefined;
  /** Starts holders. */
  pool: HolderPool;
  /** Counts tokens. */
  tokens: TokenStore;
  /** Where grants are recorded. */
  records: Records;
  /** What a user may have at once. */
  limits: Limits;
  /** Where events go. */
  log: Log;
  /** Whether a held lock outlives this process. */
  outlivesAgent: boolean;
}

/** One owner's lock: an open file description, its holder and its token. */
interface Ownership {
  readonly name: string;
  readonly owner: string;
  readonly uid: number;
  readonly shared: boolean;
  readonly token: number;
  readonly since: number;
  readonly sinceAt: number;
  readonly file: LockFile;
  holder: Holder;
  /** The sessions of the owner that have it, in the order they came. */
  readonly grants: Grant[];
}

/** A session's part in an ownership. */
interface Grant {
  readonly ownership: Ownership;
  readonly claimant: Claimant;
  readonly purpose: string | undefined;
  readonly onEnd: EndPolicy;
  readonly graceMs: number;
}

interface LockEntry {
  readonly name: string;
  /** Several only while all of them are shared. */
  readonly ownerships: Ownership[];
  /** In the order they came; the first may be the one that is tried. */
  readonly queue: PendingClaim[];
  attempt: PendingClaim | undefined;
}

/** A claim that is not settled yet, or whose holder has not ended yet. */
class PendingClaim {
  readonly startedAt = performance.now();
  /** The process that tries to take the lock for this claim. */
  holder: HolderProcess | undefined;
  /** Whether the kernel has queued its holder. */
  isQueued = false;
  isSettled = false;
  readonly claimant: Claimant;
  readonly params: ClaimParams;
  readonly resolve: (result: ClaimResult) => void;
  readonly reject: (error: Error) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    claimant: Claimant,
    params: ClaimParams,
    resolve: (result: ClaimResult) => void,
    reject: (error: Error) => void,
  ) {
    this.claimant = claimant;
    this.params = params;
    this.resolve = resolve;
    this.reject = reject;
  }

  get waitMs(): number {
    return this.params.waitMs ?? 0;
  }

  get shared(): boolean {
    return this.params.shared ?? false;
  }

  get waitedMs(): number {
    return Math.round(performance.now() - this.startedAt);
  }

  /** Calls back once the claim has waited as long as it wanted to. */
  limitWait(onTimeout: () => void): void {
    this.#timer = setTimeout(onTimeout, this.waitMs);
  }

  /** Whether this was the first cause; its answer is the one that counts. */
  settle(): boolean {
    if (this.isSettled) return false;
    clearTimeout(this.#timer);
    return this.isSettled = true;
  }
}

/** The locks of one agent, who has them and who waits for them. */
export class LockTable {
  readonly #parts: LockTableParts;
  readonly #entries = new Map<string, LockEntry>();
  readonly #byClaimant = new Map<Claimant, Set<LockEntry>>();
  readonly #watchers = new Set<(change: ChangeParams) => void>();
  readonly #bootId = readBootId();
  readonly #pidNamespace = readPidNamespace();
  readonly #agent = { pid: process.pid, startTime: readStat(process.pid)?.startTime ?? 0 };
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
      this.#parts.limits.addClaim(claimant.peer.uid);
      const entry = this.#entryOf(params.name);
      const claim = new PendingClaim(claimant, params, resolve, reject);
      const own = joinable(entry, claim);
      if (own !== undefined) return this.#join(entry, own, claim);
      entry.queue.push(claim);
      this.#index(claimant).add(entry);
      if (claim.waitMs > 0) claim.limitWait(() => void this.#refuse(entry, claim));
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
   * Begins the end of a session: it is told, its claims are taken back, and locks that nobody looks
   * after are freed. The others stay taken until {@linkcode finishEnd}.
   *
   * @param claimant The session.
   * @param cause Why.
   * @returns What is to become of its processes: the strictest policy of its locks, with the longest
   * grace; `undefined` when no lock depends on them.
   */
  beginEnd(
    claimant: Claimant,
    cause: { reason: LossReason; detail: string },
  ): { policy: "kill" | "drain" | undefined; graceMs: number } {
    this.cancelClaims(claimant, cause.detail);
    const grants = this.#grantsOf(claimant);
    for (const grant of grants) {
      this.#notifyLoss(grant, cause.reason, cause.detail);
      if (grant.onEnd === "leave") this.#end(this.#entryOf(grant.ownership.name), grant, "lost");
      else this.#announce("ending", claimant, this.#entryOf(grant.ownership.name));
    }
    const policies = grants.map((grant) => grant.onEnd);
    const policy = (["kill", "drain"] as const).find((policy) => policies.includes(policy));
    return { policy, graceMs: Math.max(0, ...grants.map((grant) => grant.graceMs)) };
  }

  /**
   * Frees all locks of a session whose processes are gone. They are free when this returns.
   *
   * @param claimant The session.
   */
  finishEnd(claimant: Claimant): void {
    for (const grant of this.#grantsOf(claimant)) {
      this.#end(this.#entryOf(grant.ownership.name), grant, "lost");
    }
  }

  /**
   * Takes over a lock of a predecessor of this agent.
   *
   * @param name The lock.
   * @param record What was recorded of the ownership.
   * @param file The open file description that has the lock.
   * @param holder Its holder.
   * @param claimants The sessions that have it, in the order of the record's grants.
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
    };
    for (const [index, { purpose, onEnd, graceMs }] of record.grants.entries()) {
      const claimant = claimants[index]!;
      this.#parts.limits.addClaim(claimant.record.peer.uid);
      ownership.grants.push({ ownership, claimant, purpose, onEnd, graceMs });
      this.#index(claimant).add(entry);
    }
    this.#own(entry, ownership);
    this.#record(entry);
    for (const grant of ownership.grants) this.#parts.log("lock-adopted", eventFacts(grant));
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
   * The sessions that have a lock.
   *
   * @param name The lock.
   */
  claimantsOf(name: string): Claimant[] {
    const entry = this.#entries.get(name);
    return entry === undefined ? [] : grantsOfEntry(entry).map((grant) => grant.claimant);
  }

  /**
   * Writes the records of a session's locks anew, because more is known of it.
   *
   * @param claimant The session.
   */
  recordOf(claimant: Claimant): void {
    for (const entry of this.#byClaimant.get(claimant) ?? []) this.#record(entry);
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
   * Ends locks whose file is no longer the one that was locked.
   *
   * @param name Only this lock; absent: all.
   */
  checkFiles(name?: string): void {
    const entries = name === undefined ? [...this.#entries.values()] : [this.#entries.get(name)];
    for (const entry of entries) {
      for (const ownership of [...entry?.ownerships ?? []]) this.#checkFile(ownership);
    }
  }

  /**
   * Ends locks of one session whose file is no longer the one that was locked.
   *
   * @param claimant The session.
   */
  checkFilesOf(claimant: Claimant): void {
    for (const { ownership } of this.#grantsOf(claimant)) this.#checkFile(ownership);
  }

  /** All locks that are held here or waited for, by name. */
  facts(): LockFacts[] {
    return [...this.#entries.values()].map((entry) => this.#factsOf(entry))
      .sort((a, b) => a.name < b.name ? -1 : 1);
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
    throw new WireError(
      "already-claimed",
      `Cannot claim "${name}": this session has it or has claimed it already`,
      { name },
    );
  }

  /** Refuses what can neither be had now nor wait, and tries the first of the rest. */
  #pump(entry: LockEntry): void {
    for (const claim of entry.queue.filter((claim) => claim.waitMs === 0)) {
      const isBlocked = entry.attempt?.isQueued === true || !isCompatible(entry, claim);
      if (isBlocked && claim !== entry.attempt) void this.#refuse(entry, claim);
    }
    if (entry.attempt === undefined && entry.queue.length > 0) this.#start(entry);
    const isEmpty = entry.ownerships.length + entry.queue.length === 0 &&
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
      const ownership = await this.#acquire(entry, claim);
      if (ownership !== undefined) this.#grant(entry, claim, ownership);
    } catch (error) {
      this.#settleRefused(entry, claim, error as Error);
    } finally {
      entry.attempt = undefined;
      this.#finishStart(claim);
      this.#pump(entry);
    }
  }

  /** The lock in the kernel, or `undefined` when the claim was settled meanwhile. */
  async #acquire(entry: LockEntry, claim: PendingClaim): Promise<Ownership | undefined> {
    const { lockDir, gid, pool } = this.#parts;
    const { name } = entry;
    const access = { peerUid: claim.claimant.peer.uid, gid };
    for (let tries = 0; tries < MAX_REPLACEMENTS && !claim.isSettled; tries++) {
      const file = openLockFile(lockDir, name, access);
      const order = { name, shared: claim.shared, wait: claim.waitMs > 0, tied: true };
      const { holder, outcome } = await pool.lock(order, file.fd, {
        onStart: (holder) => claim.holder = holder,
        onWaiting: () => this.#markQueued(entry, claim),
      });
      if (outcome.kind === "locked" && !claim.isSettled && isStillThere(file)) {
        return this.#toOwnership(claim, file, holder);
      }
      this.#unlock(file, holder);
      await holder.ended;
      if (outcome.kind === "busy") throw await this.#contended(entry, claim);
      if (outcome.kind === "failed") throw holderFailed(name, outcome.reason);
    }
    if (claim.isSettled) return undefined;
    throw new WireError(
      "lock-file",
      `Cannot claim "${name}": its lock file is replaced again and again`,
      { name, reason: "keeps-changing" },
    );
  }

  #toOwnership(claim: PendingClaim, file: LockFile, holder: HolderProcess): Ownership {
    const { claimant: { owner, peer: { uid } }, shared, params: { name } } = claim;
    try {
      const token = this.#parts.tokens.next();
      const [since, sinceAt] = [Date.now(), performance.now()];
      return { name, owner, uid, shared, token, since, sinceAt, file, holder, grants: [] };
    } catch (error) {
      this.#unlock(file, holder);
      throw error;
    }
  }

  #grant(entry: LockEntry, claim: PendingClaim, ownership: Ownership): void {
    const { outlivesAgent, pool } = this.#parts;
    const holder = ownership.holder as HolderProcess;
    remove(entry.queue, claim);
    this.#addGrant(ownership, claim);
    claim.claimant.onGranted(ownership.token);
    this.#own(entry, ownership);
    this.#record(entry);
    // From here on an end of this process leaves the lock with its session, not with nobody.
    if (outlivesAgent) holder.untie();
    this.#settleGranted(entry, ownership, claim, {});
    pool.refill();
  }

  /** A session of the same owner has the lock: this one shares its ownership. */
  #join(entry: LockEntry, ownership: Ownership, claim: PendingClaim): void {
    this.#index(claim.claimant).add(entry);
    this.#addGrant(ownership, claim);
    claim.claimant.onGranted(ownership.token);
    this.#record(entry);
    this.#settleGranted(entry, ownership, claim, { joined: true });
  }

  #addGrant(ownership: Ownership, { claimant, params }: PendingClaim): void {
    const { purpose, onEnd = "kill", graceMs = GRACE_MS } = params;
    ownership.grants.push({ ownership, claimant, purpose, onEnd, graceMs });
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
    extra: { joined?: true },
  ): void {
    claim.settle();
    const { waitedMs } = claim;
    claim.resolve({ name, token, holderPid: holder.pid, shared, waitedMs, ...extra });
    this.#parts.log("lock-granted", { ...eventFacts(grants.at(-1)!), waitedMs, ...extra });
    this.#announce("granted", claim.claimant, entry);
  }

  #markQueued(entry: LockEntry, claim: PendingClaim): void {
    claim.isQueued = true;
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
    remove(entry.queue, claim);
    const message = `Claim of "${entry.name}" has ended: ${detail}`;
    this.#dismiss(entry, claim, new WireError("cancelled", message, { name: entry.name }));
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
    const holders = await this.#holdersOf(entry);
    const { name } = entry;
    const [holder] = holders;
    const waitedMs = claim.waitMs === 0 ? 0 : claim.waitedMs;
    const waiting = entry.queue.filter((other) => other !== claim).length;
    const facts: ContendedFacts = {
      name,
      holder,
      holderCount: holders.length,
      queueLength: waiting,
      waitedMs,
    };
    const message = `Cannot claim "${name}": ${describeHolder(holder)}`;
    return new WireError("contended", message, { ...facts });
  }

  // ---- grants ----------------------------------------------------------------------------------

  /** Starts a new holder for a lock whose holder was killed; our descriptor has kept it meanwhile. */
  async #replaceHolder(entry: LockEntry, ownership: Ownership): Promise<void> {
    const { pool, log, outlivesAgent } = this.#parts;
    const { name, shared, file, grants } = ownership;
    const isOver = () => grants.length === 0;
    if (isOver()) return;
    log("holder-died", eventFacts(grants[0]!));
    const order = { name, shared, wait: false, tied: !outlivesAgent };
    for (let tries = 0; tries < MAX_HOLDER_RESTARTS && !isOver(); tries++) {
      const { holder, outcome } = await pool.lock(order, file.fd);
      if (outcome.kind === "locked" && !isOver()) {
        ownership.holder = holder;
        holder.onDeath = () => void this.#replaceHolder(entry, ownership);
        this.#record(entry);
        log("holder-replaced", eventFacts(grants[0]!));
        return pool.refill();
      }
      holder.kill();
      if (!isOver()) await pause(HOLDER_RESTART_PAUSE_MS);
    }
    const detail = "its holder was killed and none could be started";
    if (!isOver()) this.#lose(entry, ownership, "holder-failed", detail);
  }

  #checkFile(ownership: Ownership): void {
    const { file, grants, name } = ownership;
    if (grants.length === 0 || isStillThere(file)) return;
    const detail = `lock file ${file.path} was removed or replaced`;
    this.#lose(this.#entryOf(name), ownership, "lock-file-replaced", detail);
  }

  #lose(entry: LockEntry, { grants }: Ownership, reason: LossReason, detail: string): void {
    for (const grant of [...grants]) {
      // A session that is ending has been told its first cause.
      if (grant.claimant.state !== "ending") this.#notifyLoss(grant, reason, detail);
      this.#end(entry, grant, "lost");
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
    if (isLast) {
      this.#unlock(ownership.file, ownership.holder);
      remove(entry.ownerships, ownership);
      if (--this.#ownershipCount === 0) this.onHolding?.(false);
    }
    this.#recordLater(entry.name);
    this.#parts.limits.removeClaim(claimant.peer.uid);
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

  /** LOCK_UN frees at once for every descriptor of the description; ending the holder alone does not. */
  #unlock(file: LockFile, holder: Holder): void {
    flock(file.fd, LOCK_UN);
    holder.kill();
    file.close();
  }

  // ---- facts -----------------------------------------------------------------------------------

  async #holdersOf(entry: LockEntry): Promise<HolderFacts[]> {
    if (entry.ownerships.length > 0) return grantsOfEntry(entry).map(factsOfGrant);
    try {
      const foreign = await findForeignHoldersOf(
        this.#parts.lockDir,
        entry.name,
        this.holderPids(),
      );
      const ownerships = this.#parts.records.read(entry.name)?.ownerships ?? [];
      return foreign.map((holder) => explain(holder, ownerships));
    } catch (error) {
      return [{ kind: "foreign", hiddenBecause: (error as Error).message }];
    }
  }

  #factsOf(entry: LockEntry): LockFacts {
    return {
      name: entry.name,
      holders: grantsOfEntry(entry).map(factsOfGrant),
      waiters: entry.queue.filter((claim) => !claim.isSettled).map((claim) => ({
        owner: claim.claimant.owner,
        purpose: claim.params.purpose,
        uid: claim.claimant.peer.uid,
        waitedMs: claim.waitedMs,
        shared: claim.shared,
      })),
    };
  }

  #announce(event: ChangeParams["event"], { owner }: Claimant, entry: LockEntry): void {
    if (this.#watchers.size === 0) return;
    const lock = this.#factsOf(entry);
    for (const watcher of this.#watchers) watcher({ event, owner, lock });
  }

  #record(entry: LockEntry): void {
    const ownerships = entry.ownerships.map((
      { owner, uid, token, since, shared, holder, grants },
    ) => ({
      ...{ owner, uid, token, since, shared },
      holder: { pid: holder.pid, startTime: readStat(holder.pid)?.startTime ?? 0 },
      agent: this.#agent,
      grants: grants.map(({ purpose, onEnd, graceMs, claimant }) => ({
        ...{ purpose, onEnd, graceMs },
        session: claimant.record,
      })),
    }));
    const { name } = entry;
    const [bootId, pidNamespace] = [this.#bootId, this.#pidNamespace];
    const error = this.#parts.records.write({ name, bootId, pidNamespace, ownerships });
    if (error !== undefined) this.#parts.log("record-failed", { name, message: error.message });
  }

  /** A lock that has ended is free already: its record may wait until the next claim is under way. */
  #recordLater(name: string): void {
    setImmediate(() => {
      this.#record(this.#entries.get(name) ?? emptyEntry(name));
    });
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

function emptyEntry(name: string): LockEntry {
  return { name, ownerships: [], queue: [], attempt: undefined };
}

/** The owner's own lock, when a session of the owner has it that is not ending. */
function joinable(entry: LockEntry, { claimant, shared }: PendingClaim): Ownership | undefined {
  // Anyone may call themselves anything: only the same user's sessions share an owner's lock.
  return entry.ownerships.find(({ owner, uid, shared: isShared, grants }) =>
    owner === claimant.owner && uid === claimant.peer.uid && isShared === shared &&
    grants.some((grant) => grant.claimant.state !== "ending")
  );
}

/** A claim can be granted beside the ownerships there are. */
function isCompatible(entry: LockEntry, claim: PendingClaim): boolean {
  return entry.ownerships.every((ownership) => ownership.shared && claim.shared);
}

function grantsOfEntry(entry: LockEntry): Grant[] {
  return entry.ownerships.flatMap((ownership) => ownership.grants);
}

function grantOf(entry: LockEntry, claimant: Claimant): Grant | undefined {
  return grantsOfEntry(entry).find((grant) => grant.claimant === claimant);
}

function factsOfGrant({ ownership, claimant, purpose }: Grant): OwnHolder {
  const { since, token, shared, holder } = ownership;
  const { owner, state, awaiting, clientAddress, lastHeardAt } = claimant;
  const { uid, pid: peerPid } = claimant.peer;
  return {
    kind: "own",
    owner,
    purpose,
    uid,
    user: userName(uid),
    peerPid,
    clientAddress,
    since,
    heldMs: heldMsOf(ownership),
    lastHeardMs: Math.round(performance.now() - lastHeardAt),
    holderPid: holder.pid,
    token,
    shared,
    state,
    awaiting: state === "ending" ? awaiting : undefined,
  };
}

function eventFacts({ ownership, claimant, purpose }: Grant): Record<string, unknown> {
  const { name, token, holder, shared } = ownership;
  const { owner, peer: { pid: peerPid, uid }, record: { id: session } } = claimant;
  return { name, owner, purpose, token, holderPid: holder.pid, session, peerPid, uid, shared };
}

function heldMsOf(ownership: Ownership): number {
  return Math.round(performance.now() - ownership.sinceAt);
}

function holderFailed(name: string, reason: string): WireError {
  return new WireError("holder-failed", `Cannot claim "${name}": ${reason}`, { name, reason });
}

function remove<T>(list: T[], item: T): void {
  const index = list.indexOf(item);
  if (index >= 0) list.splice(index, 1);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
