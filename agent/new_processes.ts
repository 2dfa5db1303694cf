/**
 * Shows processes as the kernel starts them.
 *
 * A chain of processes, each of which forks the next and ends a millisecond later, is seen by every
 * look through /proc, and each process of it is gone when the look is over. Whoever is to reach one
 * must look at it alone, and at once.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import { setImmediate } from "node:timers/promises";
import { closeDescriptor, openPidfd } from "./libc.ts";
import { listPids, readLastPid } from "./proc.ts";
import { ProcessScan, type Seen } from "./process_scan.ts";

/** How long the event loop is kept from others at a time, in milliseconds. */
const TURN_MS = 3;

/** How long a process is followed at most, in milliseconds; whoever wants more asks again. */
const LONGEST_MS = 30;

/** It is over sooner when for so long none was started that is a follower's, in milliseconds. */
const QUIET_MS = 6;

/** Pids that are tried at most, of those that were given out last: older ones are known or gone. */
const MOST_BEHIND = 64;

/** `unknown`: whose it is does not show yet, so it is shown again. */
export type Sight = "own" | "another's" | "unknown";

/**
 * Looks at a process that was just started.
 *
 * @param line The process and those above it, read while the pidfd stood for it.
 * @param pid Its pid.
 * @param pidfd Stands for it, or for nobody any more; closed after the call.
 */
export type Look = (line: ProcessScan, pid: number, pidfd: number) => Sight;

interface Follower {
  readonly look: Look;
  readonly end: (error?: unknown) => void;
  readonly endsAt: number;
  quietAt: number;
}

/** What the kernel has started last, for all who want to see it at the same time. */
export class NewProcesses {
  readonly #followers = new Set<Follower>();
  #isRunning = false;

  /**
   * Looks at the processes that were started a moment ago, and at those that are started from now on,
   * for some milliseconds. A process may be shown more than once.
   *
   * It works all that time, in turns with others on the event loop.
   *
   * @param look Looks at one.
   */
  follow(look: Look): Promise<void> {
    return new Promise((resolve, reject) => {
      const end = (error?: unknown) => error === undefined ? resolve() : reject(error);
      const now = performance.now();
      const times = { endsAt: now + LONGEST_MS, quietAt: now + QUIET_MS };
      this.#followers.add({ look, end, ...times });
      if (!this.#isRunning) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    try {
      await this.#showAll();
    } catch (error) {
      this.#isRunning = false;
      this.#dismiss(() => true, error);
    }
  }

  async #showAll(): Promise<void> {
    const births = new Births();
    while (this.#followers.size > 0) {
      const turnEndsAt = performance.now() + TURN_MS;
      const above = new Map<number, Seen>();
      do {
        births.count();
        const isCaughtUp = this.#showNext(births, above);
        const now = performance.now();
        this.#dismiss(({ endsAt, quietAt }) => now >= endsAt || (isCaughtUp && now >= quietAt));
      } while (this.#followers.size > 0 && performance.now() < turnEndsAt);
      await setImmediate();
    }
    // At once: whoever follows from now on finds nobody at work.
    this.#isRunning = false;
  }

  /** Shows the newest that lives, as there may be newer ones by then; `true` where none is due. */
  #showNext(births: Births, above: Map<number, Seen>): boolean {
    for (let pid = births.take(); pid !== undefined; pid = births.take()) {
      const sight = this.#show(pid, above);
      if (sight === "unknown") births.takeAgain(pid);
      if (sight !== "gone") return false;
    }
    return true;
  }

  /** The pidfd comes first: what is read then is of the process that it stands for, or it is gone. */
  #show(pid: number, above: Map<number, Seen>): Sight | "gone" {
    const pidfd = tryOpen(pid);
    if (pidfd === undefined) return "gone";
    try {
      const line = ProcessScan.readLine(pid, above);
      return line === undefined ? "gone" : this.#showLine(line, pid, pidfd);
    } finally {
      closeDescriptor(pidfd);
    }
  }

  #showLine(line: ProcessScan, pid: number, pidfd: number): Sight {
    let sight: Sight = "another's";
    for (const follower of this.#followers) {
      const seen = follower.look(line, pid, pidfd);
      if (seen === "another's") continue;
      follower.quietAt = performance.now() + QUIET_MS;
      if (sight !== "unknown") sight = seen;
    }
    return sight;
  }

  #dismiss(isOver: (follower: Follower) => boolean, error?: unknown): void {
    for (const follower of this.#followers) {
      if (!isOver(follower)) continue;
      this.#followers.delete(follower);
      follower.end(error);
    }
  }
}

/** The pids that are given out, the newest first. */
class Births {
  #last = (readLastPid() ?? NaN) - MOST_BEHIND;
  #listed: ReadonlySet<number> | undefined;
  /** The oldest first. */
  #due: number[] = [];
  #again: number[] = [];

  /** Finds out which were given out since the last call. */
  count(): void {
    if (this.#due.length === 0) this.#due = this.#again.splice(0);
    const last = readLastPid();
    const since = last === undefined ? this.#listNew() : this.#countUpTo(last);
    this.#due = [...this.#due, ...since].slice(-MOST_BEHIND);
  }

  /** The newest that was not taken yet. */
  take(): number | undefined {
    return this.#due.pop();
  }

  /** This one is to be taken once more, after all others. */
  takeAgain(pid: number): void {
    this.#again.push(pid);
  }

  /** After the highest pid, the lowest follow. */
  #countUpTo(last: number): number[] {
    const first = last < this.#last ? 1 : this.#last + 1;
    this.#last = last;
    const count = Math.min(last - first + 1, MOST_BEHIND);
    return Array.from({ length: count }, (_, index) => last - count + 1 + index);
  }

  /** Where the kernel does not tell the last pid. */
  #listNew(): number[] {
    const listed = listPids();
    const before = this.#listed ?? new Set(listed);
    this.#listed = new Set(listed);
    return listed.filter((pid) => !before.has(pid));
  }
}

/** A thread's id gives none; nor does any pid where no descriptor is left. */
function tryOpen(pid: number): number | undefined {
  try {
    return openPidfd(pid);
  } catch {
    return undefined;
  }
}
