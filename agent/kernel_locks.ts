/**
 * What the kernel itself says of locks: /proc/locks, and the processes behind it.
 *
 * /proc/locks names the process that called flock(2), which for the shell protocol is a flock(1)
 * that has long ended; so the descriptors of the living are looked at as well.
 *
 * @module
 */

import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { setImmediate } from "node:timers/promises";
import { lockFileName, lockNameOfFile } from "../protocol/lock_name.ts";
import type { ForeignHolder } from "../protocol/messages.ts";
import {
  isFirstPidNamespace,
  listDescriptors,
  listPids,
  readCommand,
  readUid,
  whyProcIsBlind,
} from "./proc.ts";
import { userName } from "./users.ts";

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

/** A lock file that the kernel has a lock on. */
export interface LockedFile {
  /** The lock. */
  name: string;
  /** Its path. */
  path: string;
  /** What the kernel holds on it, holders before waiters. */
  locks: KernelLock[];
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
  const locks: KernelLock[] = [];
  for (const line of readFileSync("/proc/locks", "latin1").split("\n")) {
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

/**
 * The lock files of a folder on which the kernel has a lock, sorted by name.
 *
 * @param lockDir The folder of the lock files.
 * @param page Only one lock by its name; or only those after a name, and at most so many.
 * @throws {Error} The folder or /proc/locks cannot be read.
 */
export async function listLockedFiles(
  lockDir: string,
  { name, after = "", limit = Infinity }: { name?: string; after?: string; limit?: number } = {},
): Promise<LockedFile[]> {
  const byFile = groupByFile(readKernelLocks());
  if (!isFirstPidNamespace()) {
    for (const lock of await readDescriptorLocks(lockDir)) {
      const isKnown = byFile.get(lock.file)?.some(({ state }) => state === "held") ?? false;
      if (!isKnown) byFile.set(lock.file, [lock, ...byFile.get(lock.file) ?? []]);
    }
  }
  const fileNames = name === undefined ? readdirSync(lockDir).sort() : [lockFileName(name)];
  const found: LockedFile[] = [];
  for (const fileName of fileNames) {
    const lockName = lockNameOfFile(fileName);
    if (lockName === undefined || lockName <= after) continue;
    if (found.length >= limit) break;
    const path = join(lockDir, fileName);
    const locks = byFile.get(keyOfPath(path) ?? "");
    if (locks !== undefined) found.push({ name: lockName, path, locks });
  }
  return found;
}

/**
 * The processes that hold a lock, as far as they can be seen from here.
 *
 * A lock held by nobody who can be seen is still held: the answer then says why it shows no more.
 *
 * @param file A locked file.
 * @param ownPids Holders that are known already and are left out.
 * @returns One entry for an exclusive lock, one a process for a shared one; an entry without a pid
 * when none can be seen; none when the lock is free.
 */
export async function findForeignHolders(
  file: LockedFile,
  ownPids: ReadonlySet<number>,
): Promise<ForeignHolder[]> {
  const held = file.locks.filter((lock) => lock.state === "held");
  if (held.length === 0) return [];
  const shared = held[0]!.shared;
  const named = held.map((lock) => lock.pid).filter((pid) => hasLockOpen(pid, file.path));
  if (named.some((pid) => ownPids.has(pid))) return [];
  const pids = named.length === held.length ? named : await searchHolders(file.path, ownPids);
  if (pids.length > 0 && !shared) return [describeProcess(mainHolder(pids, file.name), shared)];
  if (pids.length > 0) return pids.map((pid) => describeProcess(pid, shared));
  return [{ kind: "foreign", shared, hiddenBecause: whyHidden() }];
}

/**
 * The processes that hold one lock by name, which was refused just now; empty when it is free.
 *
 * @param lockDir The folder of the lock files.
 * @param name The lock.
 * @param ownPids Holders that are known already and are left out.
 */
export async function findForeignHoldersOf(
  lockDir: string,
  name: string,
  ownPids: ReadonlySet<number> = new Set(),
): Promise<ForeignHolder[]> {
  const [file] = await listLockedFiles(lockDir, { name });
  if (file !== undefined) return await findForeignHolders(file, ownPids);
  // From inside a container no list shows what a process outside has locked.
  return isFirstPidNamespace() ? [] : [{ kind: "foreign", hiddenBecause: whyHidden() }];
}

/**
 * An exclusive lock has one open file description, which several processes may have inherited: of
 * the shell protocol's two, the one that is named like the lock stays when the shell is gone.
 */
function mainHolder(pids: number[], name: string): number {
  const command = `${lockFileName(name)} infinity`;
  return pids.find((pid) => readCommand(pid) === command) ?? pids[0]!;
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

async function searchHolders(path: string, ownPids: ReadonlySet<number>): Promise<number[]> {
  const found: number[] = [];
  let looked = 0;
  for (const pid of listPids()) {
    if (!ownPids.has(pid) && hasLockOpen(pid, path)) found.push(pid);
    if (++looked % PIDS_PER_TURN === 0) await setImmediate();
  }
  return found;
}

/** Whether a descriptor of the process leads to the file and has a flock(2) on it. */
function hasLockOpen(pid: number, path: string): boolean {
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

function describeProcess(pid: number, shared: boolean): ForeignHolder {
  const uid = readUid(pid);
  const user = uid === undefined ? undefined : userName(uid);
  return { kind: "foreign", pid, uid, user, command: readCommand(pid), shared };
}

function whyHidden(): string {
  const blind = whyProcIsBlind();
  if (blind !== undefined) return blind;
  return process.getuid!() === 0
    ? "its process is in another pid namespace or has just ended"
    : "its process belongs to another user or another pid namespace";
}

function keyOfPath(path: string): string | undefined {
  try {
    const { dev, ino } = statSync(path);
    return kernelFileKey(dev, ino);
  } catch {
    return undefined;
  }
}
