/**
 * What the kernel itself says of locks: /proc/locks, and the processes behind it.
 *
 * /proc/locks names the process that called flock(2), which for the shell protocol is a flock(1)
 * that has long ended; so the descriptors of the living are looked at as well.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { NextRun } from "./next_run.ts";
import { isFirstPidNamespace, listDescriptors, listPids } from "./proc.ts";

/** A flock(2) in the kernel's table. */
export interface KernelLock {
  /** `held`, or `waiting` behind a holder. */
  state: "held" | "waiting";
  /** Whether it is shared. */
  shared: boolean;
  /** The process that called flock(2); it may have ended. */
  pid: number;
  /** `major:minor:inode` of the file, as /proc/locks writes it. */
  file: string;
}

// Processes between two turns of the event loop, so that a look at a full host delays no claim.
const PIDS_PER_TURN = 100;

/**
 * All flock(2) locks of the host.
 *
 * @throws {Error} /proc/locks cannot be read.
 * @see proc(5)
 */
export function readKernelLocks(): KernelLock[] {
  return parseLocks(readFileSync("/proc/locks", "latin1"));
}

function parseLocks(text: string): KernelLock[] {
  const locks: KernelLock[] = [];
  for (const line of text.split("\n")) {
    const lock = parseLock(line);
    if (lock !== undefined) locks.push(lock);
  }
  return locks;
}

function parseLock(line: string): KernelLock | undefined {
  // 1: FLOCK  ADVISORY  WRITE 1234 00:19:5 0 EOF, with -> after the number for a waiter
  const match = /^\d+: (-> )?FLOCK +\w+ +(READ|WRITE) +(-?\d+) ([0-9a-f]+:[0-9a-f]+:\d+) /
    .exec(line);
  if (match === null) return undefined;
  return {
    state: match[1] === undefined ? "held" : "waiting",
    shared: match[2] === "READ",
    pid: Number(match[3]),
    file: match[4]!,
  };
}

/**
 * The locks on files of a folder that the descriptors of visible processes have.
 *
 * In a container /proc/locks leaves out each lock whose flock(2) was called by a process that is not
 * there (any more), such as every lock of the shell protocol (locks_show() in Linux, fs/locks.c).
 */
async function readDescriptorLocks(lockDir: string): Promise<KernelLock[]> {
  const locks: KernelLock[] = [];
  let looked = 0;
  for (const pid of listPids()) {
    for (const [fd, target] of listDescriptors(pid) ?? []) {
      if (!target.startsWith(`${lockDir}/`)) continue;
      const line = /^lock:\t(.*FLOCK.*)$/m.exec(readDescriptorInfo(pid, fd))?.[1];
      const lock = line === undefined ? undefined : parseLock(line);
      if (lock !== undefined) locks.push(lock);
    }
    if (++looked % PIDS_PER_TURN === 0) await setImmediate();
  }
  return locks;
}

/**
 * The key of a file in /proc/locks.
 *
 * @param device Device number, as stat(2) gives it.
 * @param inode Number of the inode.
 */
export function kernelFileKey(device: number, inode: number): string {
  // makedev(3) of Linux, for device numbers below 2^32.
  const major = (device >>> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >>> 12) & 0xfff00);
  const hex = (part: number) => part.toString(16).padStart(2, "0");
  return `${hex(major)}:${hex(minor)}:${inode}`;
}

/** What the kernel has, by the key of the file. */
export type LocksByFile = ReadonlyMap<string, readonly KernelLock[]>;

// The kernel makes a page at a time and counts from the first lock for each: with ten thousand that
// takes 10 ms, and many times that on a busy host. So it is read by another thread, and once for all.
const reading = new NextRun(async () => {
  return groupByFile(parseLocks(await readFile("/proc/locks", "latin1")));
});

/**
 * All flock(2) locks by file, as far as they can be seen from here; those of the folder completely.
 *
 * The look begins after the call.
 *
 * @param lockDir The folder of the lock files.
 * @throws {Error} /proc/locks cannot be read.
 */
export async function askKernelLocks(lockDir: string): Promise<LocksByFile> {
  const byFile = await reading.ask();
  if (isFirstPidNamespace()) return byFile;
  const completed = new Map(byFile);
  for (const lock of await readDescriptorLocks(lockDir)) {
    const known = completed.get(lock.file) ?? [];
    if (!known.some(({ state }) => state === "held")) completed.set(lock.file, [lock, ...known]);
  }
  return completed;
}

/**
 * The processes that have a lock on files of a folder, by path, from one look through /proc.
 *
 * @param lockDir The folder of the lock files.
 * @param leftOut Processes that are not looked at.
 */
export async function indexHolders(
  lockDir: string,
  leftOut: ReadonlySet<number>,
): Promise<Map<string, number[]>> {
  const byPath = new Map<string, number[]>();
  let looked = 0;
  for (const pid of listPids()) {
    if (leftOut.has(pid)) continue;
    for (const [fd, target] of listDescriptors(pid) ?? []) {
      const pids = byPath.get(target) ?? [];
      if (!target.startsWith(`${lockDir}/`) || pids.includes(pid) || !hasFlock(pid, fd)) continue;
      byPath.set(target, [...pids, pid]);
    }
    if (++looked % PIDS_PER_TURN === 0) await setImmediate();
  }
  return byPath;
}

function groupByFile(locks: KernelLock[]): Map<string, KernelLock[]> {
  const groups = new Map<string, KernelLock[]>();
  for (const lock of locks) {
    const group = groups.get(lock.file);
    if (group === undefined) groups.set(lock.file, [lock]);
    else group.push(lock);
  }
  return groups;
}

/**
 * Whether a descriptor of the process leads to the file and has a flock(2) on it.
 *
 * @param pid The process.
 * @param path The file.
 */
export function hasLockOpen(pid: number, path: string): boolean {
  for (const [fd, target] of listDescriptors(pid) ?? []) {
    if (target === path && hasFlock(pid, fd)) return true;
  }
  return false;
}

/** `lock:` lines of fdinfo are those of the open file description, whoever called flock(2). */
function hasFlock(pid: number, fd: number): boolean {
  return /^lock:.*FLOCK/m.test(readDescriptorInfo(pid, fd));
}

function readDescriptorInfo(pid: number, fd: number): string {
  try {
    return readFileSync(`/proc/${pid}/fdinfo/${fd}`, "latin1");
  } catch {
    return ""; // gone, or not ours to see
  }
}
