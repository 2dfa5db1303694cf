/**
 * One owner's lock and the sessions that have a part in it, and what is told and recorded of them.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import type {
  LossReason,
  LostParams,
  OwnHolder,
  ProcessFacts,
  QueuedParams,
  TakeoverNotice,
} from "../protocol/messages.ts";
import type { EndPolicy } from "./clean_up.ts";
import type { Holder } from "./holder.ts";
import type { LockFile } from "./lock_file.ts";
import type { Peer } from "./peer.ts";
import type { ProcessId } from "./proc.ts";
import type { GrantRecord, OwnershipRecord, SessionRecord } from "./records.ts";
import { userName } from "./users.ts";

/** Why a session ends. */
export interface EndCause {
  /** The cause, as a loss names it. */
  reason: LossReason;
  /** The cause in a sentence. */
  detail: string;
}

/** What the table knows of a session. */
export interface Claimant {
  /** Whether it is there, without a connection, or ending. */
  readonly state: "held" | "detached" | "ending";
  /** The processes that its end waits for. */
  readonly awaiting: ProcessFacts[];
  /** What is recorded of it. */
  readonly record: SessionRecord;
  /** The identity that claims are made under. */
  readonly owner: string;
  /** The process at the other end. */
  readonly peer: Peer;
  /** Address of the SSH client, once it is known. */
  readonly clientAddress: string | undefined;
  /** When the session was last heard of, on the monotonic clock, in milliseconds. */
  readonly lastHeardAt: number;
  /** Called when it claims for the first time since it was idle. */
  onActive(): void;
  /** Called before a grant of its is recorded. */
  onGranted(token: number): void;
  /** Called when it has and wants nothing any longer. */
  onIdle(): void;
  /** Tells the session that its claim waits. */
  notifyQueued(params: QueuedParams): void;
  /** Tells the session that a lock is lost. */
  notifyLost(params: LostParams): void;
  /** Tells the session that another asks for its lock. */
  notifyTakeover(params: TakeoverNotice): void;
  /** Ends the session; its locks are free once its processes are cleared away. */
  end(cause: EndCause): void;
}

/** One owner's lock: an open file description, its holder and its token. */
export interface Ownership {
  readonly name: string;
  readonly owner: string;
  readonly uid: number;
  readonly shared: boolean;
  token: number;
  since: number;
  sinceAt: number;
  readonly file: LockFile;
  holder: Holder;
  /** The sessions of the owner that have it, in the order they came. */
  readonly grants: Grant[];
  /** The path leads to another file: it excludes nobody, and waits for its sessions to end. */
  isReplaced: boolean;
  /** That other file, where this process could lock it: `guardNewFile`. */
  guard: LockFile | undefined;
  /** Present while no session has it, and it is reserved for its owner. */
  parked: Parking | undefined;
}

/** A session's part in an ownership. */
export interface Grant {
  readonly ownership: Ownership;
  readonly claimant: Claimant;
  readonly purpose: string | undefined;
  readonly onEnd: EndPolicy;
  readonly graceMs: number;
  /** How long the lock stays reserved after this session's link has dropped, in milliseconds. */
  readonly parkMs: number;
}

/** An ownership that outlives its last session for a while. */
export interface Parking {
  /** The part that its last session had. */
  readonly grant: Grant;
  /** When it is over, in milliseconds since 1970: it must be understood after a restart. */
  readonly until: number;
  readonly timer: ReturnType<typeof setTimeout>;
}

/**
 * Whether nobody has the ownership any longer.
 *
 * @param ownership The ownership.
 */
export function isOver({ grants, parked }: Ownership): boolean {
  return grants.length === 0 && parked === undefined;
}

/**
 * Where an ownership stands: the parts of its sessions, or of the last one while it is parked.
 *
 * @param ownership The ownership.
 */
export function partsOf({ grants, parked }: Ownership): Grant[] {
  return parked === undefined ? grants : [parked.grant];
}

/**
 * What `status` tells of a session's part in a lock.
 *
 * @param grant The part.
 */
export function factsOfGrant({ ownership, claimant, purpose }: Grant): OwnHolder {
  const { since, token, shared, holder, parked } = ownership;
  const { owner, awaiting, clientAddress, lastHeardAt } = claimant;
  const { uid, pid: peerPid } = claimant.peer;
  const state = parked === undefined ? claimant.state : "parked";
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
    parkedForMs: parked === undefined ? undefined : Math.max(0, parked.until - Date.now()),
  };
}

/**
 * What events say of a session's part in a lock.
 *
 * @param grant The part.
 */
export function eventFacts({ ownership, claimant, purpose }: Grant): Record<string, unknown> {
  const { name, token, holder, shared } = ownership;
  const { owner, peer: { pid: peerPid, uid }, record: { id: session } } = claimant;
  return { name, owner, purpose, token, holderPid: holder.pid, session, peerPid, uid, shared };
}

/**
 * How long a lock has been held, in milliseconds.
 *
 * @param ownership The lock.
 */
export function heldMsOf(ownership: Ownership): number {
  return Math.round(performance.now() - ownership.sinceAt);
}

/**
 * What is recorded of an ownership.
 *
 * @param ownership The ownership.
 * @param agent The process that granted it.
 */
export function toRecord(ownership: Ownership, agent: ProcessId): OwnershipRecord {
  const { owner, uid, token, since, shared, holder, grants, parked } = ownership;
  return {
    ...{ owner, uid, token, since, shared },
    holder: { pid: holder.pid, startTime: holder.startTime },
    agent,
    grants: grants.map(toGrantRecord),
    parked: parked && { grant: toGrantRecord(parked.grant), until: parked.until },
  };
}

function toGrantRecord({ purpose, onEnd, graceMs, parkMs, claimant }: Grant): GrantRecord {
  return { purpose, onEnd, graceMs, parkMs, session: claimant.record };
}
