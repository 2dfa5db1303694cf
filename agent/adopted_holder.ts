/**
 * A holder that a predecessor of this agent has started.
 *
 * @module
 */

import type { Holder } from "./holder.ts";
import { isAlive, type ProcessId } from "./proc.ts";
import { sendSignals } from "./signals.ts";

/**
 * Pause between two looks whether it lives, in milliseconds. It is no child of this process, so no
 * event tells; the lock is safe meanwhile, because this process has its own descriptor of it.
 */
const LOOK_MS = 500;

/** A holder that is no child of this process. */
export class AdoptedHolder implements Holder {
  onDeath: (() => void) | undefined;
  readonly #process: ProcessId;
  readonly #timer: ReturnType<typeof setInterval>;

  /**
   * @param process The process.
   */
  constructor(process: ProcessId) {
    this.#process = process;
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
  }

  /** The pid. */
  get pid(): number {
    return this.#process.pid;
  }

  /** Ends the process. */
  kill(): void {
    clearInterval(this.#timer);
    sendSignals(this.#process, ["SIGKILL"]);
  }

  #look(): void {
    if (isAlive(this.#process)) return;
    clearInterval(this.#timer);
    this.onDeath?.();
  }
}
