/**
 * A holder that a predecessor of this agent has started.
 *
 * @module
 */

import type { ExitWatch } from "./exit_watch.ts";
import type { Holder } from "./holder.ts";
import type { ProcessId } from "./proc.ts";
import type { RecordCopy } from "./record_copy.ts";
import { sendSignals } from "./signals.ts";

/**
 * Pause between two looks whether any of them has ended, in milliseconds. They are no children of
 * this process, so no event tells; the lock is safe meanwhile, because this process has its own
 * descriptor of it.
 */
export const ADOPTED_LOOK_MS = 500;

/** A holder that is no child of this process. */
export class AdoptedHolder implements Holder {
  onDeath: (() => void) | undefined;
  readonly copy: RecordCopy | undefined;
  readonly #process: ProcessId;
  readonly #stopWatching: () => void;

  /**
   * @param process The process.
   * @param exits Tells when it ends.
   * @param pidfd A pidfd of it, which is closed when it has ended.
   * @param copy The copy of its lock's record that it keeps.
   */
  constructor(
    process: ProcessId,
    exits: ExitWatch,
    pidfd: number,
    copy: RecordCopy | undefined,
  ) {
    this.#process = process;
    this.copy = copy;
    this.#stopWatching = exits.add(process, () => this.onDeath?.(), pidfd);
  }

  /** The pid. */
  get pid(): number {
    return this.#process.pid;
  }

  /** When it started, in clock ticks since boot. */
  get startTime(): number {
    return this.#process.startTime;
  }

  /** Ends the process. */
  kill(): void {
    this.#stopWatching();
    sendSignals(this.#process, ["SIGKILL"]);
  }
}
