/**
 * A claim that is not settled yet, or whose holder has not ended yet.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import { MAX_WAIT_MS } from "../protocol/limits.ts";
import type { ClaimParams, ClaimResult } from "../protocol/messages.ts";
import type { HolderProcess } from "./holder.ts";
import type { Claimant, Grant } from "./ownership.ts";

/** How a claim goes about taking a lock over. */
export interface Takeover {
  /** Why. */
  readonly reason: string;
  /** Time that each session with the lock has to release it, in milliseconds. */
  readonly deadlineMs: number;
  /** Whether the claimant may end all sessions that had the lock when it claimed. */
  readonly mayForce: boolean;
  /** The sessions' parts that were asked for. */
  readonly asked: Map<Grant, Asked>;
  /** The owners who were asked. */
  readonly askedOwners: Set<string>;
}

/** How a claim may take a lock over. */
export interface TakeoverRights {
  /** Whether the claimant may end the sessions that have the lock. */
  readonly mayForce: boolean;
  /** The deadline where the claim names none, in milliseconds. */
  readonly takeoverDeadlineMs: number;
}

/** What a session was asked. */
export interface Asked {
  /** When its time is over. */
  endsAt: number;
  /** Whether it is ended then. */
  forced: boolean;
  /** Goes off when its time is over. */
  timer: ReturnType<typeof setTimeout>;
}

/** A claim from the request to its answer. */
export class PendingClaim {
  readonly startedAt = performance.now();
  /** The process that tries to take the lock for this claim. */
  holder: HolderProcess | undefined;
  /** Whether the kernel has queued its holder. */
  isQueued = false;
  /** Whether the present try is given up for a claim that goes first; the claim itself waits on. */
  isWithdrawn = false;
  isSettled = false;
  readonly claimant: Claimant;
  readonly params: ClaimParams;
  readonly takeover: Takeover | undefined;
  /** How long it waits, in milliseconds; 0: not at all. */
  readonly waitMs: number;
  readonly resolve: (result: ClaimResult) => void;
  readonly reject: (error: Error) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /**
   * @param claimant Who claims.
   * @param params What is claimed.
   * @param rights How it may take the lock over, if it asks for that.
   * @param answer Where the answer goes.
   */
  constructor(
    claimant: Claimant,
    params: ClaimParams,
    rights: TakeoverRights,
    answer: { resolve: (result: ClaimResult) => void; reject: (error: Error) => void },
  ) {
    this.claimant = claimant;
    this.params = params;
    this.takeover = toTakeover(params, rights);
    this.waitMs = params.waitMs ?? defaultWaitMs(this.takeover);
    this.resolve = answer.resolve;
    this.reject = answer.reject;
  }

  /** Whether the lock is to be shared. */
  get shared(): boolean {
    return this.params.shared ?? false;
  }

  /** How long it has waited, in milliseconds. */
  get waitedMs(): number {
    return Math.round(performance.now() - this.startedAt);
  }

  /** When it will have waited as long as it wants to. */
  get waitsUntil(): number {
    return this.startedAt + this.waitMs;
  }

  /** Whether it goes before claims that can only wait. */
  get isForced(): boolean {
    return this.takeover?.mayForce ?? false;
  }

  /**
   * Calls back once the claim has waited as long as it wanted to.
   *
   * @param onTimeout Called once, unless the claim is settled before.
   */
  limitWait(onTimeout: () => void): void {
    this.#timer = setTimeout(onTimeout, this.waitMs);
  }

  /**
   * A holder was started for the present try.
   *
   * @param holder The holder.
   */
  start(holder: HolderProcess): void {
    this.holder = holder;
    if (this.isWithdrawn) holder.kill();
  }

  /** Gives up the present try: another one comes when it is its turn again. */
  withdraw(): void {
    this.isWithdrawn = true;
    this.holder?.kill();
  }

  /** Whether this was the first cause; its answer is the one that counts. */
  settle(): boolean {
    if (this.isSettled) return false;
    clearTimeout(this.#timer);
    for (const { timer } of this.takeover?.asked.values() ?? []) clearTimeout(timer);
    return this.isSettled = true;
  }
}

function toTakeover(
  { takeover }: ClaimParams,
  { mayForce, takeoverDeadlineMs }: TakeoverRights,
): Takeover | undefined {
  if (takeover === undefined) return undefined;
  const { reason, deadlineMs = takeoverDeadlineMs } = takeover;
  return { reason, deadlineMs, mayForce, asked: new Map(), askedOwners: new Set() };
}

/** Who may force it gets it once the sessions' processes are gone, however long that takes. */
function defaultWaitMs(takeover: Takeover | undefined): number {
  if (takeover === undefined) return 0;
  return takeover.mayForce ? MAX_WAIT_MS : Math.max(1, takeover.deadlineMs);
}
