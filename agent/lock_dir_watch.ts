/**
 * Notices that a lock file was removed or replaced.
 *
 * @module
 */

import { type FSWatcher, watch } from "node:fs";
import { basename } from "node:path";
import { lockNameOfFile } from "../protocol/lock_name.ts";
import type { LockTable } from "./lock_table.ts";
import type { Log } from "./log.ts";

/** How long the watch outlives the last lock, in milliseconds: locks often come in a row. */
const LINGER_MS = 2_000;

/**
 * One watch on the lock folder instead of one a file: it also tells of a rename over the file.
 *
 * It is there only while a lock is held, so that an idle agent sleeps.
 */
export class LockDirWatch {
  readonly #lockDir: string;
  readonly #table: LockTable;
  readonly #log: Log;
  #watcher: FSWatcher | undefined;
  #linger: ReturnType<typeof setTimeout> | undefined;

  /**
   * @param lockDir The folder of the lock files.
   * @param table Whose lock files are looked at after an event.
   * @param log Where it is told that the folder cannot be watched.
   */
  constructor(lockDir: string, table: LockTable, log: Log) {
    this.#lockDir = lockDir;
    this.#table = table;
    this.#log = log;
  }

  /**
   * Starts or ends the watching.
   *
   * Where the kernel has no watches left this is logged: heartbeats look at the files as well, so a
   * loss is then told a little later.
   *
   * @param isWanted Whether a lock is held.
   */
  set(isWanted: boolean): void {
    clearTimeout(this.#linger);
    if (isWanted) this.#open();
    else this.#linger = setTimeout(() => this.close(), LINGER_MS);
    this.#linger?.unref();
  }

  /** Ends the watching at once. */
  close(): void {
    clearTimeout(this.#linger);
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  #open(): void {
    if (this.#watcher !== undefined) return;
    try {
      this.#watcher = watch(this.#lockDir, (event, file) => this.#look(event, file));
      this.#watcher.on("error", (error) => this.#fail(error));
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  #fail(error: Error): void {
    this.#log("watch-failed", { message: error.message });
    this.close();
  }

  #look(event: string, file: string | null): void {
    // Writing, locking and closing come as `change`; only a name that comes or goes is of interest.
    if (event !== "rename") return;
    if (file === null) return this.#table.checkFiles();
    const name = lockNameOfFile(basename(file));
    if (name !== undefined) this.#table.checkFiles({ name });
  }
}
