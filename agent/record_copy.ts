/**
 * The copy of its lock's record that a holder keeps: a file in memory, without a path, that it has
 * open as its standard input and never touches.
 *
 * So the kernel keeps it for as long as the holder lives, whatever becomes of the agent and of the
 * files in the runtime folder. Two sides take turns: an end of the writer in the middle of a write
 * leaves the other side as it was, and what is torn is known by its checksum.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readSync,
  type Stats,
  statSync,
  writeSync,
} from "node:fs";
import process from "node:process";
import { RECORD_FD } from "./holder/order.ts";
import { closeDescriptor, createMemoryFile, writeAt } from "./libc.ts";
import { readDescriptor, readRealUid } from "./proc.ts";

const NAME = "sshlock-record";

/** How the kernel shows such a file. @see memfd_create(2) */
const TARGET = `/memfd:${NAME} (deleted)`;

/**
 * What nearly every record fits, in bytes: each side has a slot of this length, and both are in one page
 * of memory.
 */
const SMALL_BYTES = 2048;

/** Where the sides' slots for longer ones begin. The file has holes: only what is written takes memory. */
const LARGE_OFFSET = 1024 ** 3;

/** The first line of a slot: a number that rises with each write, then length and SHA-256 of the rest. */
const HEADER = new RegExp(`^${NAME} (\\d{1,15}) (\\d{1,9}) ([0-9a-f]{64})\\n`);

interface Slot {
  readonly sequence: number;
  readonly checksum: string;
  readonly text: string;
}

/** The copy that one holder keeps. */
export class RecordCopy {
  /** Ours, which the holder inherits; -1 once it is closed. From then on the holder's own is opened. */
  #fd: number;
  readonly #file: Pick<Stats, "dev" | "ino">;
  #sequence: number;
  #checksum: string;

  private constructor(fd: number, { dev, ino }: Stats, last: Slot | undefined) {
    this.#fd = fd;
    this.#file = { dev, ino };
    this.#sequence = last?.sequence ?? 0;
    this.#checksum = last?.checksum ?? "";
  }

  /**
   * An empty one, for a holder that is to be started.
   *
   * @returns `undefined` where there can be none; its lock has the record's file alone then.
   */
  static make(): RecordCopy | undefined {
    try {
      const fd = createMemoryFile(NAME);
      return new RecordCopy(fd, statSync(`/proc/self/fd/${fd}`), undefined);
    } catch {
      return undefined;
    }
  }

  /**
   * The one that a holder of a predecessor keeps. It is believed only where this process's own user
   * runs the holder and has made the file: no other can, whatever it calls itself and its files.
   *
   * @param pid The holder.
   * @returns `undefined` where it keeps none; `text` is what was written last, unless that is damaged.
   */
  static of(pid: number): { copy: RecordCopy; text: string | undefined } | undefined {
    // Looked at first: to open a device or a pipe would do something to it.
    if (readDescriptor(pid, RECORD_FD) !== TARGET) return undefined;
    const uid = process.getuid!();
    if (readRealUid(pid) !== uid) return undefined;
    let fd: number;
    try {
      fd = open(pid, constants.O_RDONLY);
    } catch {
      return undefined;
    }
    try {
      const stat = fstatSync(fd);
      if (!stat.isFile() || stat.uid !== uid || stat.nlink !== 0) return undefined;
      const last = readLast(fd, stat.size);
      return { copy: new RecordCopy(-1, stat, last), text: last?.text };
    } finally {
      closeSync(fd);
    }
  }

  /** The descriptor to start the holder with. */
  get fd(): number {
    return this.#fd;
  }

  /**
   * Writes the record anew, unless it is there already. Ours is closed then: a descriptor less for each
   * lock that is held.
   *
   * @param pid The holder; nothing is written where it is gone.
   * @param text The record.
   * @throws {Error} It cannot be written; what was there before still stands.
   */
  write(pid: number, text: string): void {
    const bytes = Buffer.from(text);
    const checksum = checksumOf(bytes);
    if (checksum === this.#checksum) return;
    const sequence = this.#sequence + 1;
    const header = Buffer.from(`${NAME} ${sequence} ${bytes.length} ${checksum}\n`);
    const slot = Buffer.concat([header, bytes]);
    const offset = offsetFor(sequence, slot.length);
    if (this.#fd >= 0) writeAt(this.#fd, slot, offset);
    else if (!this.#writeThrough(pid, slot, offset)) return;
    this.#sequence = sequence;
    this.#checksum = checksum;
    this.letGo();
  }

  /** Closes our descriptor. */
  letGo(): void {
    if (this.#fd >= 0) closeDescriptor(this.#fd);
    this.#fd = -1;
  }

  /** Whether the holder is there. */
  #writeThrough(pid: number, bytes: Uint8Array, offset: number): boolean {
    let fd: number;
    try {
      fd = open(pid, constants.O_WRONLY);
    } catch (error) {
      if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
      throw error;
    }
    try {
      const { dev, ino } = fstatSync(fd);
      // The holder may have ended, and its pid may be another process's.
      if (dev !== this.#file.dev || ino !== this.#file.ino) return false;
      for (let done = 0; done < bytes.length;) {
        done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
      }
      return true;
    } finally {
      closeSync(fd);
    }
  }
}

function open(pid: number, access: number): number {
  return openSync(
    `/proc/${pid}/fd/${RECORD_FD}`,
    access | constants.O_NONBLOCK | constants.O_NOCTTY,
  );
}

/** Never in the slots of the side that was written last. */
function offsetFor(sequence: number, length: number): number {
  const side = (sequence + 1) % 2;
  return length <= SMALL_BYTES ? side * SMALL_BYTES : (1 + side) * LARGE_OFFSET;
}

function readLast(fd: number, size: number): Slot | undefined {
  return [0, SMALL_BYTES, LARGE_OFFSET, 2 * LARGE_OFFSET].filter((offset) => offset < size)
    .flatMap((offset) => readSlot(fd, offset) ?? [])
    .sort((a, b) => b.sequence - a.sequence)[0];
}

/** @returns `undefined` where nothing was written, or not all of it. */
function readSlot(fd: number, offset: number): Slot | undefined {
  const start = readBytes(fd, offset, SMALL_BYTES);
  const [header, sequence, length, checksum] = HEADER.exec(start.toString("latin1")) ?? [];
  if (header === undefined) return undefined;
  const end = header.length + Number(length);
  const rest = end <= start.length
    ? Buffer.alloc(0)
    : readBytes(fd, offset + start.length, end - start.length);
  const bytes = Buffer.concat([start, rest]).subarray(header.length, end);
  if (bytes.length !== Number(length) || checksumOf(bytes) !== checksum) return undefined;
  return { sequence: Number(sequence), checksum: checksum!, text: bytes.toString() };
}

function readBytes(fd: number, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let done = 0;
  for (;;) {
    const count = readSync(fd, bytes, done, length - done, offset + done);
    done += count;
    if (count === 0 || done === length) return bytes.subarray(0, done);
  }
}

function checksumOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
