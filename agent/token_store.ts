/**
 * Fencing tokens: one counter for all locks of a state folder, strictly rising.
 *
 * Two files. `token` has the last token given out and the boot it was given out in; it is written
 * in place and not synced, so it survives every process but not the machine. `token-reserved` has
 * a mark that no token given out has ever passed; it is replaced by rename and synced *before*
 * tokens up to it are used. After a reboot (or when `token` is missing or damaged) counting goes
 * on from the mark. So a claim costs no fsync, and a crash of anything skips tokens at most.
 *
 * The flock(2) on `token` makes the counter one for several agents that share the folder.
 *
 * The first mark is the time in milliseconds, so that even a lost state folder does not start low;
 * after that no clock is asked.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import {
  closeSync,
  constants,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { WireError } from "../protocol/wire_error.ts";
import { crashPoint } from "./crash_points.ts";
import { flock, LOCK_EX, LOCK_NB, LOCK_UN } from "./libc.ts";
import { readBootId } from "./proc.ts";

/** How many tokens one reservation is good for: one fsync in so many claims. */
const RESERVATION = 65_536;

/** Tries to get the counter from another agent, each of which holds it for microseconds. */
const MAX_LOCK_TRIES = 100_000;

/** Gives out fencing tokens. */
export class TokenStore {
  readonly #folder: string;
  readonly #bootId = readBootId();
  readonly #buffer = Buffer.alloc(128);
  #fd: number | undefined;
  #reserved = 0;

  /**
   * @param folder The state folder; it must exist and survive reboots.
   */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /**
   * The next token: higher than every token that any agent with this folder has given out.
   *
   * @throws {WireError} `no-token`: the counter cannot be read or written; no lock may be granted.
   */
  next(): number {
    try {
      this.#fd ??= this.#openCounter();
      lockCounter(this.#fd);
      try {
        return this.#advance(this.#fd);
      } finally {
        flock(this.#fd, LOCK_UN);
      }
    } catch (cause) {
      throw new WireError(
        "no-token",
        `Cannot count a token in ${this.#folder}: ${(cause as Error).message}`,
        { folder: this.#folder },
      );
    }
  }

  /** Opens the counter and reserves tokens, so that the first claim does not wait for the disk. */
  prepare(): void {
    this.next();
  }

  /** Closes the counter. */
  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  #openCounter(): number {
    const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
    return openSync(join(this.#folder, "token"), flags, 0o660);
  }

  #advance(fd: number): number {
    const last = this.#readLast(fd);
    const token = (last ?? this.#readReserved() ?? Date.now()) + 1;
    // Without a mark on disk nothing is reserved, whatever the time is by now.
    if (token > this.#reserved) this.#reserved = this.#readReserved() ?? 0;
    if (token > this.#reserved) this.#reserve(token + RESERVATION);
    // Always as long as the line before, so that nothing of that one is left behind it.
    writeCounter(fd, `${String(token).padStart(16, "0")} ${this.#bootId}\n`);
    crashPoint("token.counted");
    return token;
  }

  /** The last token of this boot, or `undefined` where the file does not say. */
  #readLast(fd: number): number | undefined {
    const length = readSync(fd, this.#buffer, 0, this.#buffer.length, 0);
    const match = /^(\d{1,16}) (\S+)\n/.exec(this.#buffer.toString("latin1", 0, length));
    if (match === null || match[2] !== this.#bootId) return undefined;
    return Number(match[1]);
  }

  /** The mark, or `undefined` in a folder that has none yet. */
  #readReserved(): number | undefined {
    const path = join(this.#folder, "token-reserved");
    let text: string;
    try {
      text = readFileSync(path, "latin1");
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause;
      return undefined;
    }
    // It is replaced by rename, so a damaged one is somebody else's work: not to be guessed around.
    if (!/^\d{1,16}\n$/.test(text)) throw new Error(`${path} is damaged`);
    return Number(text);
  }

  #reserve(mark: number): void {
    const path = join(this.#folder, "token-reserved");
    const next = `${path}.new`;
    writeFileSync(next, `${mark}\n`, { mode: 0o660, flush: true });
    crashPoint("token.mark-written");
    renameSync(next, path);
    syncFolder(this.#folder);
    this.#reserved = mark;
    crashPoint("token.reserved");
  }
}

/** Another agent has the counter for microseconds at a time, so a short spin is all the waiting there is. */
function lockCounter(fd: number): void {
  for (let tries = 0; tries < MAX_LOCK_TRIES; tries++) {
    if (flock(fd, LOCK_EX | LOCK_NB)) return;
  }
  throw new Error("another process keeps the counter locked");
}

function writeCounter(fd: number, line: string): void {
  // As bytes: Deno ignores the position of a string.
  const bytes = Buffer.from(line, "latin1");
  const written = writeSync(fd, bytes, 0, bytes.length, 0);
  if (written !== bytes.length) throw new Error("the counter was written in part");
}

function syncFolder(folder: string): void {
  const fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
