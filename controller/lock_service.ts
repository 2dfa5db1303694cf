/**
 * What a session needs of a host's locks, whichever way it reaches them.
 *
 * @module
 */

import type {
  ChangeParams,
  ClaimParams,
  ProcessFacts,
  ProcessSelection,
  QueuedParams,
  StatusResult,
  TakeoverNotice,
} from "../protocol/messages.ts";
import type { LossCause } from "./errors.ts";
import type { Way } from "./way.ts";

/** The first cause of a loss. */
export interface Loss {
  /** The cause. */
  reason: LossCause;
  /** The cause in a sentence. */
  detail: string;
}

/** A granted claim. */
export interface Grant {
  /** The fencing token; absent where the way has none. */
  token?: number | undefined;
  /** The process on the host that holds the flock(2). */
  holderPid: number;
  /** Whether the lock is shared. */
  shared: boolean;
  /** How long the claim waited, in milliseconds. */
  waitedMs: number;
  /** The owners it was taken over from. */
  takenFrom?: string[] | undefined;
  /** Present when it had stayed reserved for this owner after a dropped link. */
  unparked?: true | undefined;
  /**
   * Lets the lock go. Resolves once it is free: with how long it was held, in milliseconds, where the
   * answer that told it was not lost.
   */
  release(): Promise<number | undefined>;
}

/** What a claim is watched by. */
export interface ClaimWatch {
  /** Gives the claim up. */
  signal?: AbortSignal | undefined;
  /** Called when the claim is queued, and each time its place changes. */
  onQueued?: ((queued: QueuedParams) => void) | undefined;
  /** Called each time another asks for the lock. */
  onTakeover?: ((request: TakeoverNotice) => void) | undefined;
  /** Called once when the granted lock is lost. */
  onLoss(loss: Loss): void;
}

/** A watch of locks that is under way. */
export interface LockWatch {
  /** The locks as they were when it began. */
  first: StatusResult;
  /** Resolves when no more changes come: with the cause. */
  closed: Promise<string>;
  /** Ends it. */
  close(): void;
}

/** The locks of a host, by one of the ways. */
export interface LockService {
  /** The way. */
  readonly way: Way;
  /** What this way cannot do, each in a sentence; empty where nothing is reduced. */
  readonly reduced: readonly string[];
  /** Resolves when the way is known to work. Rejects with {@linkcode ServiceMissingError} where it is not there. */
  readonly proven: Promise<void>;
  /** Resolves when the service can no longer be used: with the cause. */
  readonly closed: Promise<string>;
  /** Whether it can no longer be used; true no later than `closed` resolves. */
  readonly isOver: boolean;
  /**
   * Claims a lock.
   *
   * @throws {ServiceMissingError} The way turns out not to be there. Nothing was claimed.
   * @throws {WireError} The claim was refused.
   */
  claim(params: ClaimParams, watch: ClaimWatch): Promise<Grant>;
  /** The locks of the host, or one of them. */
  status(name?: string): Promise<StatusResult>;
  /**
   * Watches the locks of the host, or one of them.
   *
   * @param name Only this lock.
   * @param onChange Called with each change, also with those that come before the promise resolves.
   * @throws {WireError} `unknown-method`: this way cannot watch.
   */
  watch(name: string | undefined, onChange: (change: ChangeParams) => void): Promise<LockWatch>;
  /**
   * Ends the sessions that have a lock, and with them the lock.
   *
   * @param name The lock.
   * @param reason Why: it is logged, and told to those sessions.
   * @returns The owners whose sessions are being ended.
   * @throws {WireError} `not-held`, `denied`; `unknown-method`: this way cannot do it.
   */
  breakLock(name: string, reason: string): Promise<string[]>;
  /**
   * The processes that run behind this SSH session.
   *
   * @param selection Only these.
   * @throws {WireError} `unknown-method`: this way cannot tell.
   */
  processes(selection: ProcessSelection): Promise<ProcessFacts[]>;
  /**
   * Sends a signal to processes of this SSH session, and to no others.
   *
   * @param signal The name of the signal.
   * @param selection Only these.
   * @returns Who got it.
   * @throws {WireError} `unknown-method`: this way cannot do it.
   */
  signal(signal: string, selection: ProcessSelection): Promise<number[]>;
  /**
   * What is left until its locks are lost by silence, should the agent not be heard before then, in
   * milliseconds; `undefined` where silence costs nothing.
   */
  readonly silenceLeftMs: number | undefined;
  /** Checks the clock before anything else: a process that was stopped may have lost its locks meanwhile. */
  checkSilence(): void;
  /**
   * Resolves once whoever answers for the locks has been out of reach for so long without a break, or
   * for good.
   *
   * @param ms The time, in milliseconds.
   */
  outOfReach(ms: number): Promise<void>;
  /** Ends the service; what it still holds is let go. */
  close(): void;
}

/** A way is not there at all: the next one is to be tried. */
export class ServiceMissingError extends Error {
  override name = "ServiceMissingError";
}

/** The connection was lost: no way to any lock is left. The first cause of a loss wins, so it is told before channels close. */
export const CONNECTION_LOST: Loss = {
  reason: "connection-closed",
  detail: "the SSH connection was lost",
};
