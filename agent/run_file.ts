/**
 * One agent for a folder: a flock(2) on a run file, taken before anything of a predecessor is touched.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  writeSync,
} from "node:fs";
import process from "node:process";
import { flock, LOCK_EX, LOCK_NB } from "./libc.ts";
import { listDescriptors, readStat } from "./proc.ts";

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
 * has its descriptors, until it executes its own program. Or one that starts has not written yet.
 */
const MAX_TRIES = 40;

/** Pause between two such tries, in milliseconds. */
const TRY_AGAIN_MS = 25;

/**
 * Locks the run file for as long as this process lives, and writes into it whose it is.
 *
 * When it resolves, the path led to the locked file *after* that was written. So whoever finds
 * another file there later can tell that this process was the agent before (`generation.ts`).
 *
 * @param path The run file; it is created where there is none and never removed.
 * @returns Gives the lock back.
 * @throws {AlreadyRunningError} Another agent has it.
 */
export async function lockRunFile(path: string): Promise<() => void> {
  for (let tries = 1;; tries++) {
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    if (flock(fd, LOCK_EX | LOCK_NB)) {
      ftruncateSync(fd, 0);
      writeSync(fd, Buffer.from(runFileText(process.pid, path)), 0, undefined, 0);
      if (leadsTo(path, fd)) return () => closeSync(fd);
      closeSync(fd);
    } else {
      closeSync(fd);
      const pid = readPid(path);
      if (tries >= MAX_TRIES || hasOpen(Number(pid), path)) {
        throw new AlreadyRunningError(path, pid);
      }
      await new Promise((resolve) => setTimeout(resolve, TRY_AGAIN_MS));
    }
  }
}

/**
 * What a run file says: the pid of the agent, and the path that it was locked at.
 *
 * @param pid The agent.
 * @param path The run file.
 */
export function runFileText(pid: number, path: string): string {
  return `${pid}\n${path}\n`;
}

/** It may have been removed between opening and locking it: then it keeps nobody out. */
function leadsTo(path: string, fd: number): boolean {
  const locked = fstatSync(fd);
  const found = statSync(path, { throwIfNoEntry: false });
  return found?.ino === locked.ino && found.dev === locked.dev;
}

/** A pid may be that of another process: of a later one, or in another pid namespace. */
function hasOpen(pid: number, path: string): boolean {
  if (readStat(pid) === undefined) return false;
  const descriptors = listDescriptors(pid);
  return descriptors === undefined || descriptors.some(([, target]) => target === path);
}

function readPid(path: string): string {
  try {
    return readFileSync(path, "utf8").split("\n", 1)[0]!.trim();
  } catch {
    return "";
  }
}
