/**
 * One agent for a folder: a flock(2) on a run file, taken before anything of a predecessor is touched.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import process from "node:process";
import { flock, LOCK_EX, LOCK_NB } from "./libc.ts";
import { readStat } from "./proc.ts";

/** Another agent runs in the same place. */
export class AlreadyRunningError extends Error {
  override name = "AlreadyRunningError";
  /** The run file that the other agent has locked. */
  readonly path: string;

  /**
   * @param path The run file.
   * @param pid What the run file says of the other's pid.
   */
  constructor(path: string, pid: string) {
    super(`Cannot start the agent: another one has ${path} locked (pid ${pid || "unknown"})`);
    this.path = path;
  }
}

/**
 * Tries while the agent that is written in the file is dead: a holder that it was just starting still
 * has its descriptors, until it executes its own program.
 */
const MAX_TRIES = 40;

/** Pause between two such tries, in milliseconds. */
const TRY_AGAIN_MS = 25;

/**
 * Locks the run file for as long as this process lives, and writes the pid into it.
 *
 * @param path The run file; it is created where there is none and never removed.
 * @returns Gives the lock back.
 * @throws {AlreadyRunningError} Another agent has it.
 */
export async function lockRunFile(path: string): Promise<() => void> {
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  for (let tries = 1; !flock(fd, LOCK_EX | LOCK_NB); tries++) {
    const pid = readFileSync(path, "utf8").trim();
    if (tries === MAX_TRIES || readStat(Number(pid)) !== undefined) {
      closeSync(fd);
      throw new AlreadyRunningError(path, pid);
    }
    await new Promise((resolve) => setTimeout(resolve, TRY_AGAIN_MS));
  }
  ftruncateSync(fd, 0);
  writeSync(fd, Buffer.from(`${process.pid}\n`), 0, undefined, 0);
  return () => closeSync(fd);
}
