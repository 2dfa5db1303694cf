/**
 * A descriptor of the very lock that another process holds.
 *
 * @module
 */

import { readFileSync, statSync } from "node:fs";
import { basename, dirname } from "node:path";
import { LOCK_FD } from "./holder/order.ts";
import { closeDescriptor, copyDescriptor, openPidfd } from "./libc.ts";
import type { LockFile } from "./lock_file.ts";
import {
  isAlive,
  listDescriptors,
  type ProcessId,
  readCommand,
  readDescriptor,
  readStat,
} from "./proc.ts";

/**
 * The very open file description that the holder has; opening the path anew would make another.
 *
 * @param holder The process.
 * @param path The lock file.
 * @returns `undefined` where the process is gone or is no holder of this lock.
 * @throws {Error} It lives, and it is not ours to ask.
 */
export function copyLockFile(holder: ProcessId, path: string): LockFile | undefined {
  const copy = copyWithPidfd(holder, path);
  if (copy !== undefined) closeDescriptor(copy.pidfd);
  return copy?.file;
}

/**
 * As {@linkcode copyLockFile}, with a pidfd of the holder, which is the caller's to close: thousands of
 * holders may be taken over, and each look at one costs time.
 *
 * @param holder The process.
 * @param path The lock file.
 * @returns `undefined` where the process is gone or is no holder of this lock.
 * @throws {Error} It lives, and it is not ours to ask.
 */
export function copyWithPidfd(
  holder: ProcessId,
  path: string,
): { file: LockFile; pidfd: number } | undefined {
  const pidfd = openPidfd(holder.pid);
  if (pidfd === undefined) return undefined;
  let file: LockFile | undefined;
  try {
    // Opened first, compared after: from then on the pidfd stands for this very process.
    if (!isAlive(holder) || !isHolderOf(holder.pid, path)) return undefined;
    const fd = copyDescriptor(pidfd, LOCK_FD);
    const { dev, ino } = statSync(`/proc/self/fd/${fd}`);
    file = { path, fd, device: dev, inode: ino, close: () => closeDescriptor(fd) };
    return { file, pidfd };
  } finally {
    if (file === undefined) closeDescriptor(pidfd);
  }
}

/**
 * Whether a process has a lock file as descriptor 999, with a lock on it.
 *
 * The file may have been unlinked or moved away meanwhile: the lock is lost then, and its session is to
 * be told.
 *
 * @param pid The process.
 * @param path The lock file.
 * @throws {Error} It lives, and its descriptors cannot be read: that proves nothing.
 */
export function isHolderOf(pid: number, path: string): boolean {
  const target = readDescriptor(pid, LOCK_FD);
  if (target === "" && listDescriptors(pid) === undefined && readStat(pid) !== undefined) {
    throw new Error(`the descriptors of process ${pid} cannot be read`);
  }
  // The kernel adds the word; proc_pid_fd(5).
  const isFile = target === path || target === `${path} (deleted)` || wasMoved(pid, target, path);
  return isFile && lockOn(pid, LOCK_FD) !== undefined;
}

/** A file that has another name by now is told by what the holder is called. */
function wasMoved(pid: number, target: string, path: string): boolean {
  return dirname(target) === dirname(path) && readCommand(pid) === `${basename(path)} infinity`;
}

/**
 * The flock(2) on the open file description behind a descriptor.
 *
 * @param pid The process that has the descriptor.
 * @param fd The descriptor.
 * @returns `undefined` where there is none.
 * @see proc_pid_fdinfo(5)
 */
export function lockOn(pid: number | "self", fd: number): "shared" | "exclusive" | undefined {
  let info: string;
  try {
    info = readFileSync(`/proc/${pid}/fdinfo/${fd}`, "latin1");
  } catch {
    return undefined;
  }
  const kind = /^lock:.*FLOCK +\w+ +(READ|WRITE)/m.exec(info)?.[1];
  if (kind === undefined) return undefined;
  return kind === "READ" ? "shared" : "exclusive";
}
