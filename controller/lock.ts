/**
 * A lock that a claim was granted, and what a caller gets instead where it goes on without one.
 *
 * @module
 */

import type { HolderFacts } from "../protocol/messages.ts";
import { LockLostError } from "./errors.ts";
import type { Grant, Loss } from "./lock_service.ts";
import type { Way } from "./way.ts";

/** What a lock is made of. */
export interface LockParts {
  /** The host, for messages. */
  host: string;
  /** The lock's name. */
  name: string;
  /** The way it was claimed. */
  way: Way;
  /** What that way cannot do. */
  reduced: readonly string[];
  /** Checks the clock: the lock may have been lost while this process was stopped. */
  checkSilence(): void;
  /** See {@linkcode Lock.silenceLeftMs}. */
  silenceLeftMs(): number | undefined;
  /** Called at the end of the lock: with how long it was held, or with the loss. */
  onEnd(end: { heldMs: number } | { loss: LockLostError }): void;
}

/**
 * A lock that is held until it is released, lost, or its session ends.
 *
 * `await using` releases it at the end of the block.
 */
export class Lock implements AsyncDisposable {
  /** Tells a lock from an {@linkcode Unlocked}. */
  readonly kind = "lock";
  /** The lock's name. */
  readonly name: string;
  /** The way it was claimed. */
  readonly way: Way;
  /** What that way cannot do, each in a sentence; empty where nothing is reduced. */
  readonly reduced: readonly string[];
  readonly #parts: LockParts;
  readonly #controller = new AbortController();
  #grant: Grant | undefined;
  #release: Promise<void> | undefined;
  #grantedAtMs = 0;

  /**
   * @param parts What it is made of.
   */
  constructor(parts: LockParts) {
    this.#parts = parts;
    this.name = parts.name;
    this.way = parts.way;
    this.reduced = parts.reduced;
  }

  /**
   * The fencing token: higher than that of every earlier ownership of this lock on this host.
   * `undefined` where the way has none (`reduced` says so).
   */
  get token(): number | undefined {
    return this.#grant?.token;
  }

  /** The process on the host that holds the flock(2), as `lslocks` and `pgrep` show it. */
  get holderPid(): number {
    return this.#grant?.holderPid as number;
  }

  /** Whether the lock is shared with others. */
  get shared(): boolean {
    return this.#grant?.shared as boolean;
  }

  /** How long the claim waited, in milliseconds. */
  get waitedMs(): number {
    return this.#grant?.waitedMs as number;
  }

  /** The owners it was taken over from; empty where it was free or waited for. */
  get takenFrom(): readonly string[] {
    return this.#grant?.takenFrom ?? [];
  }

  /** Whether it had stayed reserved for this owner after a dropped link: no other had it meanwhile. */
  get unparked(): boolean {
    return this.#grant?.unparked ?? false;
  }

  /** Aborts when the lock is lost, with a {@linkcode LockLostError} as its reason. A release does not abort it. */
  get signal(): AbortSignal {
    this.#parts.checkSilence();
    return this.#controller.signal;
  }

  /**
   * How long this process could be stopped, or its link be dead, from now on before the lock is lost, in
   * milliseconds; `undefined` where silence loses nothing (the shell way).
   */
  get silenceLeftMs(): number | undefined {
    return this.#parts.silenceLeftMs();
  }

  /** Whether the lock is held, as far as this side can know. */
  get held(): boolean {
    return !this.signal.aborted && this.#release === undefined;
  }

  /**
   * Lets the lock go. It is free when the promise resolves. A second call does nothing more.
   *
   * @throws {LockLostError} The lock had been lost: what was done last was not protected by it.
   */
  async release(): Promise<void> {
    this.signal.throwIfAborted();
    await (this.#release ??= this.#letGo());
    this.#controller.signal.throwIfAborted();
  }

  /** Lets the lock go, and does not complain where it had been lost: `signal` has told of that. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.release();
    } catch (error) {
      if (!(error instanceof LockLostError)) throw error;
    }
  }

  /**
   * Takes the grant. Called once, by the claim.
   *
   * @internal
   */
  grant(grant: Grant): this {
    this.#grant = grant;
    this.#grantedAtMs = performance.now();
    return this;
  }

  /**
   * Takes a loss. The first cause wins.
   *
   * @internal
   */
  lose({ reason, detail }: Loss): void {
    if (this.#controller.signal.aborted) return;
    const { host, name } = this.#parts;
    const loss = new LockLostError(host, name, { reason, detail, token: this.token });
    this.#controller.abort(loss);
    this.#parts.onEnd({ loss });
  }

  async #letGo(): Promise<void> {
    const heldMs = () => Math.round(performance.now() - this.#grantedAtMs);
    try {
      this.#parts.onEnd({ heldMs: await this.#grant?.release() ?? heldMs() });
    } catch (error) {
      if (this.#controller.signal.aborted) return;
      // The session ended under the release: the agent lets go of what it had.
      this.#parts.onEnd({ heldMs: heldMs() });
      if (!isGone(error)) throw error;
    }
  }
}

/** What `claim` gives under `onContention: "observe"` or `"warn"` when another has the lock. Nothing is locked. */
export class Unlocked implements AsyncDisposable {
  /** Tells it from a {@linkcode Lock}. */
  readonly kind = "unlocked";
  /** Nothing is held. */
  readonly held = false;
  /** There is no token. */
  readonly token = undefined;
  /** The lock's name. */
  readonly name: string;
  /** Who has it; absent when it was let go meanwhile, or when the way cannot tell. */
  readonly holder: HolderFacts | undefined;
  /** How many claims are queued for it. */
  readonly queueLength: number;
  /** The way that was used. */
  readonly way: Way;
  /** What that way cannot do. */
  readonly reduced: readonly string[];
  /** Never aborts: nothing can be lost. */
  readonly signal: AbortSignal = new AbortController().signal;

  /**
   * @param parts The name and the way.
   * @param contention Who has the lock.
   */
  constructor(
    parts: { name: string; way: Way; reduced: readonly string[] },
    contention: { holder: HolderFacts | undefined; queueLength: number },
  ) {
    this.name = parts.name;
    this.way = parts.way;
    this.reduced = parts.reduced;
    this.holder = contention.holder;
    this.queueLength = contention.queueLength;
  }

  /** Does nothing. */
  release(): Promise<void> {
    return Promise.resolve();
  }

  /** Does nothing. */
  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}

function isGone(error: unknown): boolean {
  return ["link-closed", "silence"].includes(String((error as { code?: unknown }).code)) ||
    (error as Error).name === "ConnectError";
}
