/**
 * The locks of a host as they are, then each change of them.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";

import type { ChangeParams, LockFacts } from "../protocol/messages.ts";
import { ConnectError } from "./errors.ts";
import { elapsedMs, type EventTeller } from "./events.ts";
import type { LockWatch } from "./lock_service.ts";
import type { Ways } from "./ways.ts";

/** Time that an agent has to come back, in milliseconds, before the watch fails: an upgrade takes a second. */
const COME_BACK_MS = 15_000;

/** Pauses between two tries to reach it again, in milliseconds. */
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1_000;

/** Changes that are kept for a reader that is slow; beyond them it gets the state anew. */
const MAX_UNREAD = 10_000;

/** The locks as they are: at the start, and anew where changes may have been missed. */
export interface WatchState {
  /** `state` */
  event: "state";
  /** The locks that are held or waited for; with a name asked for, that one alone, free or not. */
  locks: LockFacts[];
  /** What the kernel could not tell, and why. */
  notes?: string[];
  /** Why the watch had to start anew; absent at its first start. */
  interruption?: string;
}

/** What a watch tells: the state, or one change with the lock as it is then. */
export type WatchEvent = WatchState | ChangeParams;

/** What a watch needs of its session. */
export interface WatchParts {
  /** The way to the locks. */
  ways: Ways;
  /** Who is told. */
  events: EventTeller;
}

/**
 * Watches locks until the reader stops, the signal aborts, or the connection is over.
 *
 * @param parts What it needs of its session.
 * @param name Only this lock.
 * @param signal Ends the watch; the iteration rejects with its reason.
 * @throws {AgentMissingError} No way to the locks of the host is there, or the agent did not come back.
 * @throws {WireError} The way that is there cannot watch, or the agent refused.
 * @throws {ConnectError} The connection is over.
 */
export async function* watchLocks(
  parts: WatchParts,
  name: string | undefined,
  signal: AbortSignal | undefined,
): AsyncGenerator<WatchEvent, void, undefined> {
  let interruption: string | undefined;
  for (;;) {
    signal?.throwIfAborted();
    const changes = new Changes(signal);
    const open = () =>
      parts.ways.use((service) => service.watch(name, (change) => changes.add(change)));
    const watch = interruption === undefined
      ? await openUnlessAborted(open, signal)
      : await openAgain(open, signal);
    void watch.closed.then((detail) => changes.end(detail));
    try {
      if (interruption !== undefined) tellRestart(parts, interruption);
      yield { event: "state", ...watch.first, ...(interruption && { interruption }) };
      yield* changes;
    } finally {
      watch.close();
      changes.stopListening();
    }
    interruption = changes.detail ?? "the watch has ended";
  }
}

async function openAgain(
  open: () => Promise<LockWatch>,
  signal: AbortSignal | undefined,
): Promise<LockWatch> {
  const startMs = performance.now();
  for (let pauseMs = FIRST_PAUSE_MS;; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
    signal?.throwIfAborted();
    try {
      return await openUnlessAborted(open, signal);
    } catch (error) {
      const isOver = signal?.aborted || error instanceof ConnectError ||
        elapsedMs(startMs) > COME_BACK_MS;
      if (isOver) throw error;
    }
    await delay(pauseMs, undefined, { signal }).catch(() => {});
  }
}

/** An agent that is stopped must not keep the reader from stopping. */
async function openUnlessAborted(
  open: () => Promise<LockWatch>,
  signal: AbortSignal | undefined,
): Promise<LockWatch> {
  const opening = open();
  let onAbort = () => {};
  const aborted = new Promise<never>((_, reject) => onAbort = () => reject(signal?.reason));
  signal?.addEventListener("abort", onAbort);
  try {
    return await Promise.race([opening, aborted]);
  } catch (error) {
    opening.then((watch) => watch.close(), () => {});
    throw error;
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
}

function tellRestart({ ways, events }: WatchParts, detail: string): void {
  events.tell({
    event: "channel",
    level: "warn",
    message: `watch starts anew: ${detail}`,
    way: ways.service?.way ?? "streamlocal",
    durationMs: 0,
  });
}

/** Changes that came and were not read yet. */
class Changes implements AsyncIterable<ChangeParams> {
  /** Why no more come. */
  detail: string | undefined;
  readonly #signal: AbortSignal | undefined;
  readonly #unread: ChangeParams[] = [];
  readonly #onAbort = () => this.#wake();
  #wake: () => void = () => {};

  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal;
    signal?.addEventListener("abort", this.#onAbort);
  }

  add(change: ChangeParams): void {
    if (this.detail !== undefined) return;
    this.#unread.push(change);
    if (this.#unread.length > MAX_UNREAD) {
      this.#unread.length = 0;
      this.end(`more than ${MAX_UNREAD} changes were left unread`);
    }
    this.#wake();
  }

  end(detail: string): void {
    this.detail ??= detail;
    this.#wake();
  }

  stopListening(): void {
    this.#signal?.removeEventListener("abort", this.#onAbort);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ChangeParams, void, undefined> {
    for (;;) {
      this.#signal?.throwIfAborted();
      const next = this.#unread.shift();
      if (next !== undefined) yield next;
      else if (this.detail !== undefined) return;
      else await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }
}
