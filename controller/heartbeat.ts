/**
 * Tells silence from quiet: while locks are held or wanted, something is asked every few seconds, and
 * when the answers stay away for too long the locks are given up.
 *
 * The clock is monotonic. A process that was stopped and wakes finds its timers late, so the time is
 * compared whenever anything happens, before anything else is done.
 *
 * @module
 */

import { GIVE_UP_MS, HEARTBEAT_MS } from "../protocol/limits.ts";

/** What a heartbeat needs of its owner. */
export interface HeartbeatOptions {
  /** Sends a ping. */
  ping(): void;
  /** Called once: no ping that was sent within the last `giveUpMs` was answered. */
  giveUp(silentMs: number): void;
}

/** Watches the answers of one agent. */
export class Heartbeat {
  readonly #options: HeartbeatOptions;
  #heartbeatMs = HEARTBEAT_MS;
  #giveUpMs = GIVE_UP_MS;
  /** When the last request that was answered had been sent. */
  #answeredSentMs = 0;
  #lastPingMs = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isOver = false;

  /** @param options What it needs of its owner. */
  constructor(options: HeartbeatOptions) {
    this.#options = options;
  }

  /** How long ago the last request that was answered had been sent, in milliseconds. */
  get silentMs(): number {
    return performance.now() - this.#answeredSentMs;
  }

  /** What is left until it gives up, should no answer come before then, in milliseconds. */
  get leftMs(): number {
    return Math.max(0, this.#giveUpMs - this.silentMs);
  }

  /**
   * Takes the times that the agent asks for.
   *
   * @param heartbeatMs Time between two pings.
   * @param giveUpMs Silence after which the locks are given up.
   */
  setTimes(heartbeatMs: number, giveUpMs: number): void {
    this.#heartbeatMs = heartbeatMs;
    this.#giveUpMs = giveUpMs;
    if (this.#timer !== undefined) this.#schedule();
  }

  /** Starts, because something is held or wanted from now on. Does nothing while it runs. */
  start(): void {
    if (this.#timer !== undefined || this.#isOver) return;
    // Nothing was held before, so nothing can be lost by what was before.
    this.#answeredSentMs = this.#lastPingMs = performance.now();
    this.#schedule();
  }

  /** Stops, because nothing is held or wanted any more. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /**
   * Notes an answer.
   *
   * @param sentMs When its request had been sent: that long ago the agent was certainly not silent.
   */
  answered(sentMs: number): void {
    this.#answeredSentMs = Math.max(this.#answeredSentMs, sentMs);
  }

  /** Gives up now if it is time to; costs next to nothing. */
  check(): void {
    if (this.#timer === undefined) return;
    const { silentMs } = this;
    if (silentMs < this.#giveUpMs) return;
    this.stop();
    this.#isOver = true;
    this.#options.giveUp(silentMs);
  }

  #schedule(): void {
    clearTimeout(this.#timer);
    const nextMs = Math.min(
      this.#lastPingMs + this.#heartbeatMs,
      this.#answeredSentMs + this.#giveUpMs,
    );
    this.#timer = setTimeout(
      () => this.#beat(),
      Math.max(0, Math.ceil(nextMs - performance.now())),
    );
    // The connection keeps the process alive, not the clock.
    this.#timer.unref();
  }

  #beat(): void {
    this.check();
    if (this.#timer === undefined) return;
    if (performance.now() - this.#lastPingMs >= this.#heartbeatMs) {
      this.#lastPingMs = performance.now();
      this.#options.ping();
    }
    this.#schedule();
  }
}
