/**
 * The lock files of a folder and what the kernel has on them, as they were at one time.
 *
 * A listing of thousands of locks comes in pages, and to ask the kernel anew for each would make it
 * quadratic: so the pages of one listing share a view. What it says of a lock is compared with the
 * processes it names before it is used, and asked for anew where that does not fit any more.
 *
 * @module
 */

import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { setImmediate } from "node:timers/promises";
import { lockFileName, lockNameOfFile } from "../protocol/lock_name.ts";
import {
  askKernelLocks,
  hasLockOpen,
  indexHolders,
  kernelFileKey,
  type KernelLock,
  type LocksByFile,
} from "./kernel_locks.ts";

/** A lock file that the kernel has a lock on. */
export interface LockedFile {
  /** The lock. */
  name: string;
  /** Its path. */
  path: string;
  /** What the kernel holds on it, holders before waiters. */
  locks: readonly KernelLock[];
}

/** Which locked files are asked for. */
export interface FileSelection {
  /** Only this lock. */
  name?: string;
  /** Only locks whose name sorts after this one. */
  after?: string;
  /** Only locks up to this name. */
  upTo?: string;
  /** At most so many. */
  limit?: number;
  /** Locks that need not be asked about. */
  isKnown?: (name: string) => boolean;
}

/** Files between two turns of the event loop: those of free locks stay, so there may be many. */
const FILES_PER_TURN = 500;

/** What one listing has seen. */
export class KernelView {
  /** When it was made, on the monotonic clock, in milliseconds. */
  readonly madeAt = performance.now();
  readonly #lockDir: string;
  #fileNames: string[] | undefined;
  #locks: Promise<LocksByFile> | undefined;
  #lastLocks: Promise<LocksByFile> | undefined;
  #holders: Promise<Map<string, number[]>> | undefined;
  #isOld = false;
  #areHoldersOld = false;

  /**
   * @param lockDir The folder of the lock files.
   */
  constructor(lockDir: string) {
    this.#lockDir = lockDir;
  }

  /** Another page begins: what was seen for the ones before may have changed. */
  continue(): void {
    this.#isOld = this.#areHoldersOld = true;
    this.#lastLocks = undefined;
  }

  /**
   * The lock files on which the kernel has a lock, sorted by name.
   *
   * @param selection Which of them; absent: all.
   * @throws {Error} The folder or /proc/locks cannot be read.
   */
  async lockedFiles(selection: FileSelection = {}): Promise<LockedFile[]> {
    const { name, after = "", upTo, limit = Infinity, isKnown = () => false } = selection;
    const found: LockedFile[] = [];
    let looked = 0;
    for (const fileName of name === undefined ? this.#list() : [lockFileName(name)]) {
      const lockName = lockNameOfFile(fileName);
      if (lockName === undefined || lockName <= after || isKnown(lockName)) continue;
      if (found.length >= limit || (upTo !== undefined && lockName > upTo)) break;
      if (++looked % FILES_PER_TURN === 0) await setImmediate();
      const path = join(this.#lockDir, fileName);
      const locks = (await this.#askLocks()).get(keyOfPath(path) ?? "");
      if (locks === undefined) continue;
      if (this.#isOld && !isAsNamed(locks, path)) {
        this.#locks = undefined;
        this.#isOld = false;
        return await this.lockedFiles(selection);
      }
      found.push({ name: lockName, path, locks });
    }
    return found;
  }

  /**
   * The processes that have a lock on a file.
   *
   * @param path The file.
   * @param leftOut Processes that are known already.
   */
  async holdersOf(path: string, leftOut: ReadonlySet<number>): Promise<number[]> {
    this.#holders ??= indexHolders(this.#lockDir, leftOut);
    const pids = (await this.#holders).get(path) ?? [];
    const holders = pids.filter((pid) => !leftOut.has(pid) && hasLockOpen(pid, path));
    if (holders.length > 0 || !this.#areHoldersOld) return holders;
    this.#holders = undefined;
    this.#areHoldersOld = false;
    return await this.holdersOf(path, leftOut);
  }

  /**
   * Whether a file that nobody seems to have is locked after all: it may have been freed meanwhile. The
   * kernel is asked once more for all such files of a page.
   *
   * @param path The file.
   */
  async isStillLocked(path: string): Promise<boolean> {
    this.#lastLocks ??= askKernelLocks(this.#lockDir);
    return (await this.#lastLocks).has(keyOfPath(path) ?? "");
  }

  #list(): string[] {
    return this.#fileNames ??= readdirSync(this.#lockDir).sort();
  }

  #askLocks(): Promise<LocksByFile> {
    return this.#locks ??= askKernelLocks(this.#lockDir);
  }
}

/** Whether the processes that the kernel has named still have the lock. */
function isAsNamed(locks: readonly KernelLock[], path: string): boolean {
  return locks.every(({ state, pid }) => state === "waiting" || hasLockOpen(pid, path));
}

function keyOfPath(path: string): string | undefined {
  try {
    const { dev, ino } = statSync(path);
    return kernelFileKey(dev, ino);
  } catch {
    return undefined;
  }
}
