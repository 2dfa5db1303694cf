/**
 * Keeps the records of locks true: what a lock is by now is written at once, or soon.
 *
 * @module
 */

import process from "node:process";
import { crashPoint } from "./crash_points.ts";
import type { LockEntry } from "./lock_entry.ts";
import type { Log } from "./log.ts";
import { type Ownership, toRecord } from "./ownership.ts";
import { readBootId, readPidNamespace, readStat } from "./proc.ts";
import type { LockRecord, Records } from "./records.ts";

/** Records that are written in one turn of the event loop, at some 50 µs each. */
const RECORDS_PER_TURN = 20;

/** What a recorder works with. */
export interface RecorderParts {
  /** Where the records are. */
  records: Records;
  /** Where it is told that one could not be written. */
  log: Log;
  /** A lock as it is now. */
  entryOf(name: string): LockEntry;
}

/** Writes what is known of locks. */
export class Recorder {
  readonly #parts: RecorderParts;
  readonly #bootId = readBootId();
  readonly #pidNamespace = readPidNamespace();
  readonly #agent = { pid: process.pid, startTime: readStat(process.pid)?.startTime ?? 0 };
  /** Locks whose record is to be written soon. */
  readonly #due = new Set<string>();

  /**
   * @param parts What it works with.
   */
  constructor(parts: RecorderParts) {
    this.#parts = parts;
  }

  /**
   * Writes the record of a lock: the file, and the copy that each of its holders keeps.
   *
   * @param entry The lock.
   * @returns What stood in the way of the first that could not be written; it is in the log then.
   */
  write({ name, ownerships }: LockEntry): Error | undefined {
    const { log, records } = this.#parts;
    this.#due.delete(name);
    const [bootId, pidNamespace] = [this.#bootId, this.#pidNamespace];
    const recorded = ownerships.map((ownership) => toRecord(ownership, this.#agent));
    const record: LockRecord = { name, bootId, pidNamespace, ownerships: recorded };
    let error = records.write(record);
    for (const [index, ownership] of ownerships.entries()) {
      const failure = this.#copy(ownership, { ...record, ownerships: [recorded[index]!] });
      error ??= failure;
    }
    if (error !== undefined) log("record-failed", { name, message: error.message });
    return error;
  }

  #copy({ holder: { copy, pid } }: Ownership, record: LockRecord): Error | undefined {
    if (copy === undefined) return undefined;
    const { runtimeDir } = this.#parts.records;
    try {
      copy.write(pid, JSON.stringify({ ...record, runtimeDir }));
      crashPoint("record.copied");
      return undefined;
    } catch (error) {
      return error as Error;
    }
  }

  /**
   * Writes the record of a lock in a later turn, as the lock is then. Thousands may be due at once, so
   * they are written a few at a time.
   *
   * @param name The lock.
   */
  writeLater(name: string): void {
    if (this.#due.size === 0) setImmediate(() => this.#writeSome());
    this.#due.add(name);
  }

  #writeSome(): void {
    let left = RECORDS_PER_TURN;
    for (const name of this.#due) {
      if (left-- === 0) return void setImmediate(() => this.#writeSome());
      this.write(this.#parts.entryOf(name));
    }
  }
}
