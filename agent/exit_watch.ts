/**
 * Tells when processes end that are no children of this one, with one timer for all of them.
 *
 * The kernel makes a pidfd readable when its process ends, but neither runtime lets a program wait
 * for a descriptor of its own. So they are asked about, all in one poll(2), for as long as there are
 * any; reading /proc/PID/stat of each would take a hundred times as long.
 *
 * @module
 */

import { closeDescriptor, openPidfd, pollDescriptors, POLLIN } from "./libc.ts";
import { isAlive, type ProcessId } from "./proc.ts";

/** Entries that the poll array begins with; it doubles when it is full. */
const FIRST_CAPACITY = 16;

/** Processes without a pidfd that one look asks /proc about: with thousands it would do nothing else. */
const READ_A_LOOK = 50;

/** Descriptors that a watch may open. */
export interface DescriptorBudget {
  /** Whether one more may be opened; it is counted then. */
  borrowDescriptor(): boolean;
  /** Counts the end of a borrowed one. */
  returnDescriptor(): void;
}

interface Watched {
  readonly process: ProcessId;
  readonly onExit: () => void;
  /** -1 where there is none: the process is then looked at in /proc. */
  pidfd: number;
  /** Where it stands in the poll array; -1 once it is watched no longer. */
  index: number;
}

/** Watches processes until they end. Without any there is no timer, so an idle agent sleeps. */
export class ExitWatch {
  readonly #intervalMs: number;
  readonly #budget: DescriptorBudget;
  readonly #watched: Watched[] = [];
  /** struct pollfd: the descriptor, then events and revents; a negative descriptor is passed over. */
  #polled = new Int32Array(2 * FIRST_CAPACITY);
  #withoutPidfd = 0;
  /** Where the last one without a pidfd stands that was looked at. */
  #lastRead = 0;
  #timer: ReturnType<typeof setInterval> | undefined;

  /**
   * @param intervalMs Pause between two looks, in milliseconds.
   * @param budget What its pidfds are counted by; without room it looks into /proc instead.
   */
  constructor(intervalMs: number, budget: DescriptorBudget) {
    this.#intervalMs = intervalMs;
    this.#budget = budget;
  }

  /**
   * Watches a process.
   *
   * @param process The process; one that has ended already is told of at the first look.
   * @param onExit Called once when it has ended (a zombie has), never before this returns.
   * @param pidfd A pidfd of exactly this process, where the caller has one; it is closed here.
   * @returns Ends the watching.
   */
  add(process: ProcessId, onExit: () => void, pidfd?: number): () => void {
    const watched: Watched = { process, onExit, pidfd: -1, index: this.#watched.length };
    watched.pidfd = pidfd === undefined ? this.#openPidfd(process) : this.#take(pidfd);
    this.#watched.push(watched);
    if (watched.pidfd < 0) this.#withoutPidfd++;
    this.#place(watched);
    this.#timer ??= setInterval(() => this.#look(), this.#intervalMs);
    return () => this.#remove(watched);
  }

  /**
   * Waits for processes to end.
   *
   * @param processes The processes.
   * @param limitMs How long it waits at most, in milliseconds.
   */
  untilGone(processes: readonly ProcessId[], limitMs: number): Promise<void> {
    return new Promise((resolve) => {
      let left = processes.length;
      if (left === 0) return resolve();
      const stops = processes.map((process) => this.add(process, () => --left === 0 && finish()));
      const timer = setTimeout(finish, limitMs);
      function finish(): void {
        clearTimeout(timer);
        for (const stop of stops) stop();
        resolve();
      }
    });
  }

  /** -1 where the process has ended, is not ours to ask about, or no descriptor is left. */
  #openPidfd(process: ProcessId): number {
    if (!this.#budget.borrowDescriptor()) return -1;
    const pidfd = tryOpen(process.pid);
    // Opened first, compared after: from then on the pidfd stands for this very process.
    if (pidfd !== undefined && isAlive(process)) return pidfd;
    if (pidfd !== undefined) closeDescriptor(pidfd);
    this.#budget.returnDescriptor();
    return -1;
  }

  #take(pidfd: number): number {
    if (this.#budget.borrowDescriptor()) return pidfd;
    closeDescriptor(pidfd);
    return -1;
  }

  #look(): void {
    for (const watched of this.#findEnded()) {
      if (watched.index < 0) continue;
      this.#remove(watched);
      watched.onExit();
    }
  }

  #findEnded(): Watched[] {
    const ended = this.#nextWithoutPidfd().filter(({ process }) => !isAlive(process));
    if (this.#withoutPidfd === this.#watched.length) return ended;
    try {
      if (pollDescriptors(this.#polled.subarray(0, 2 * this.#watched.length)) === 0) return ended;
      const isReadable = ({ index }: Watched) => this.#polled[2 * index + 1]! >> 16 !== 0;
      return [
        ...ended,
        ...this.#watched.filter((watched) => watched.pidfd >= 0 && isReadable(watched)),
      ];
    } catch {
      // More entries than descriptors allowed, or no memory: /proc knows as well.
      return this.#watched.filter(({ process }) => !isAlive(process));
    }
  }

  /** One after the other, as many as a look has time for. */
  #nextWithoutPidfd(): Watched[] {
    const next: Watched[] = [];
    const most = Math.min(this.#withoutPidfd, READ_A_LOOK);
    while (next.length < most) {
      this.#lastRead = (this.#lastRead + 1) % this.#watched.length;
      const watched = this.#watched[this.#lastRead]!;
      if (watched.pidfd < 0) next.push(watched);
    }
    return next;
  }

  #place({ pidfd, index }: Watched): void {
    if (2 * index >= this.#polled.length) {
      const larger = new Int32Array(2 * this.#polled.length);
      larger.set(this.#polled);
      this.#polled = larger;
    }
    this.#polled[2 * index] = pidfd;
    this.#polled[2 * index + 1] = POLLIN;
  }

  /** The last one takes its place, so that the array has no gaps. */
  #remove(watched: Watched): void {
    const { index } = watched;
    if (index < 0) return;
    watched.index = -1;
    const last = this.#watched.pop()!;
    if (last !== watched) {
      last.index = index;
      this.#watched[index] = last;
      this.#place(last);
    }
    if (watched.pidfd < 0) {
      this.#withoutPidfd--;
    } else {
      closeDescriptor(watched.pidfd);
      this.#budget.returnDescriptor();
    }
    if (this.#watched.length > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

/** A pidfd is only a way to look: without one, /proc is looked at. */
function tryOpen(pid: number): number | undefined {
  try {
    return openPidfd(pid);
  } catch {
    return undefined;
  }
}
