/**
 * One agent for a folder: a flock(2) on a run file, taken before anything of a predecessor is touched.
 *
 * @module
 */

import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import process from "node:process";
import { flock, LOCK_EX, LOCK_NB } from "./libc.ts";

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
 * Locks the run file for as long as this process lives, and writes the pid into it.
 *
 * @param path The run file; it is created where there is none and never removed.
 * @returns Gives the lock back.
 * @throws {AlreadyRunningError} Another agent has it.
 */
export function lockRunFile(path: string): () => void {
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  if (!flock(fd, LOCK_EX | LOCK_NB)) {
    closeSync(fd);
    throw new AlreadyRunningError(path, readFileSync(path, "utf8").trim());
  }
  ftruncateSync(fd, 0);
  writeSync(fd, `${process.pid}\n`, 0);
  return () => closeSync(fd);
}
