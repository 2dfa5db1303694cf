/**
 * Reads what the scripts of the shell way say about holders and locks.
 *
 * @module
 */

import { isLockName } from "../protocol/lock_name.ts";
import type { ForeignHolder, LockFacts, StatusResult } from "../protocol/messages.ts";

/**
 * A holder as a script reports it: pid, uid, command line.
 *
 * @param words The words of its line after `holder`.
 */
export function readHolder([pid, uid, ...command]: string[]): ForeignHolder {
  const line = command.join(" ").trim();
  return {
    kind: "foreign",
    pid: Number(pid),
    ...(uid === undefined || uid === "" ? {} : { uid: Number(uid) }),
    ...(line === "" ? {} : { command: line }),
  };
}

interface LockFile {
  name: string;
  /** As /proc/locks has it: `major:minor:inode`, the first two in hexadecimal. */
  id: string;
  holders: ForeignHolder[];
}

/**
 * The locks of a host in the output of the status script.
 *
 * @param lines Its lines: `file DEVICE INODE NAME`, each followed by `holder …`, then `lock …` of /proc/locks.
 * @param name The one lock that is asked for.
 * @see proc_locks(5)
 */
export function readStatus(lines: readonly string[], name?: string): StatusResult {
  const files: LockFile[] = [];
  const kernel = new Map<string, { isShared: boolean; pids: number[] }>();
  for (const line of lines) {
    const [word, ...rest] = line.split(" ").filter((part) => part !== "");
    if (word === "file") files.push(readFile(rest));
    if (word === "holder") files.at(-1)?.holders.push(readHolder(rest));
    if (word === "lock") noteKernelLock(rest, kernel);
  }
  const locks = files.filter((file) => isLockName(file.name)).map((file) => factsOf(file, kernel));
  if (name === undefined) {
    return { locks: locks.filter(({ holders }) => holders.length > 0), notes: NOTES };
  }
  const found = locks.find((lock) => lock.name === name) ?? { name, holders: [], waiters: [] };
  return { locks: [found], notes: NOTES };
}

const NOTES = ["no agent was reached: owners, purposes, tokens and waiters are unknown"];

function readFile([device = "0", inode = "0", name = ""]: string[]): LockFile {
  const number = parseInt(device, 16);
  const major = (number >> 8) & 0xfff;
  const minor = (number & 0xff) | ((number >> 12) & 0xfff00);
  const hex = (part: number) => part.toString(16).padStart(2, "0");
  return { name, id: `${hex(major)}:${hex(minor)}:${inode}`, holders: [] };
}

/** `1: FLOCK ADVISORY WRITE 1234 00:16:99 0 EOF`; a waiter has `->` after its number. */
function noteKernelLock(
  words: string[],
  kernel: Map<string, { isShared: boolean; pids: number[] }>,
): void {
  const [, kind, , mode, pid, id] = words;
  if (kind !== "FLOCK" || id === undefined) return;
  const known = kernel.get(id) ?? { isShared: mode === "READ", pids: [] };
  known.pids.push(Number(pid));
  kernel.set(id, known);
}

function factsOf(
  { name, id, holders }: LockFile,
  kernel: Map<string, { isShared: boolean; pids: number[] }>,
): LockFacts {
  const held = kernel.get(id);
  if (held === undefined) return { name, holders: [], waiters: [] };
  // The pid in /proc/locks may be that of a flock(1) that is gone: who has the descriptor is better.
  const seen = holders.filter(({ command }) => command?.startsWith("session-lock-"));
  const shown: ForeignHolder[] = seen.length > 0
    ? seen
    : holders.length > 0
    ? holders.slice(0, 1)
    : [{ kind: "foreign", ...(held.pids[0] ? { pid: held.pids[0] } : {}) }];
  return {
    name,
    holders: shown.map((holder) => ({ ...holder, shared: held.isShared })),
    waiters: [],
  };
}
