/**
 * Opens lock files without trusting anything about the folder they lie in.
 *
 * A lock file is never truncated, never unlinked (two holders would be the result), and nothing is
 * ever stored in it: the shell protocol truncates it at each claim.
 *
 * @module
 */

import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  lstatSync,
  openSync,
  statfsSync,
  type Stats,
  statSync,
} from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { lockFileName } from "../protocol/lock_name.ts";
import { WireError } from "../protocol/wire_error.ts";

const TMPFS_MAGIC = 0x01021994;
const RAMFS_MAGIC = 0x858458f6;

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR } = constants;

// The runtimes add O_CLOEXEC themselves. O_NONBLOCK: opening a FIFO must not wait for a writer.
const OPEN_FLAGS = O_RDONLY | O_NOFOLLOW | O_NONBLOCK;
const CREATE_FLAGS = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_NONBLOCK;

/** Permissions of a lock file: whoever can open it, even for reading, can lock it. */
const LOCK_FILE_MODE = 0o660;

/** How often a file may vanish between two looks before that is somebody's doing. */
const MAX_TRIES = 10;

/** Why a lock file was refused; the fact `reason` of the error `lock-file`. */
export type LockFileReason =
  | "symlink"
  | "hard-link"
  | "not-a-file"
  | "foreign-owner"
  | "permission"
  | "read-only-filesystem"
  | "no-space"
  | "not-tmpfs"
  | "missing-folder"
  | "unsafe-folder"
  | "keeps-changing"
  | "other";

/** A lock file that was opened, and the inode that the path must still lead to later. */
export interface LockFile {
  /** The path. */
  path: string;
  /** An open descriptor, close-on-exec. */
  fd: number;
  /** Device number of the inode. */
  device: number;
  /** Number of the inode. */
  inode: number;
  /** Closes the descriptor. */
  close(): void;
}

/** Who may own lock files beside root and this agent, and which group gets new ones. */
export interface LockFileAccess {
  /** User id of the session that claims. */
  peerUid: number;
  /** Group of new lock files; absent: the agent's own. */
  gid?: number;
}

/**
 * Opens the lock file of a lock, and creates it where there is none.
 *
 * It is opened without O_CREAT first: with fs.protected_regular not even root may open another
 * user's file in a sticky folder with O_CREAT.
 *
 * @param lockDir The folder of the lock files.
 * @param name A valid lock name.
 * @param access Whose files are accepted.
 * @throws {WireError} `lock-file`: it cannot be opened safely; `reason` says which check failed.
 * @see open(2), proc_sys_fs(5)
 */
export function openLockFile(lockDir: string, name: string, access: LockFileAccess): LockFile {
  const path = join(lockDir, lockFileName(name));
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const fd = openExisting(path) ?? create(path, access.gid);
    if (fd === undefined) continue;
    try {
      const stat = fstatSync(fd);
      checkStat(path, stat, access);
      tightenMode(fd, stat);
      return { path, fd, device: stat.dev, inode: stat.ino, close: () => closeSync(fd) };
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }
  throw refusal(path, "keeps-changing", "it is created and removed again by another process");
}

/**
 * Whether the path still leads to the inode that was opened. A file that was unlinked or replaced
 * excludes nobody who comes by the path.
 *
 * @param file An open lock file.
 */
export function isStillThere(file: LockFile): boolean {
  try {
    const stat = lstatSync(file.path);
    return stat.ino === file.inode && stat.dev === file.device;
  } catch {
    return false;
  }
}

/**
 * Refuses a lock folder in which flock(2) would not exclude: locks of network filesystems lie, and
 * in a folder that others may rename in, a path proves nothing.
 *
 * @param lockDir The folder of the lock files.
 * @throws {WireError} `lock-file` with the reason.
 */
export function checkLockDir(lockDir: string): void {
  let stat: Stats;
  try {
    stat = statSync(lockDir);
  } catch (cause) {
    throw refusal(lockDir, "missing-folder", (cause as Error).message);
  }
  if (!stat.isDirectory()) throw refusal(lockDir, "missing-folder", "it is no folder");
  const { type } = statfsSync(lockDir);
  if (type !== TMPFS_MAGIC && type !== RAMFS_MAGIC) {
    const shown = `0x${type.toString(16)}`;
    throw refusal(lockDir, "not-tmpfs", `it is no local tmpfs (filesystem type ${shown})`);
  }
  const openToOthers = (stat.mode & 0o022) !== 0 && (stat.mode & 0o1000) === 0;
  if (openToOthers) {
    throw refusal(lockDir, "unsafe-folder", "others can write to it and it has no sticky bit");
  }
}

function openExisting(path: string): number | undefined {
  try {
    return openSync(path, OPEN_FLAGS);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw explain(path, "open", cause as NodeJS.ErrnoException);
  }
}

function create(path: string, gid: number | undefined): number | undefined {
  let fd: number;
  try {
    fd = openSync(path, CREATE_FLAGS, LOCK_FILE_MODE);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") return undefined;
    throw explain(path, "create", cause as NodeJS.ErrnoException);
  }
  if (gid !== undefined && process.getuid!() === 0) fchownSync(fd, 0, gid);
  return fd;
}

function checkStat(path: string, stat: Stats, access: LockFileAccess): void {
  if (!stat.isFile()) throw refusal(path, "not-a-file", "it is no regular file");
  if (stat.nlink > 1) {
    throw refusal(path, "hard-link", `it has ${stat.nlink} links, so its name proves nothing`);
  }
  const owners = [0, process.getuid!(), access.peerUid];
  if (!owners.includes(stat.uid)) {
    const expected = [...new Set(owners)].join(" or ");
    throw refusal(path, "foreign-owner", `it belongs to uid ${stat.uid}, expected uid ${expected}`);
  }
}

/** Only the umask of the shell protocol made it wider; where it is not ours to narrow, it stays. */
function tightenMode(fd: number, stat: Stats): void {
  const uid = process.getuid!();
  if ((stat.mode & 0o777) === LOCK_FILE_MODE || (uid !== 0 && uid !== stat.uid)) return;
  fchmodSync(fd, LOCK_FILE_MODE);
}

const REASONS: Record<string, [LockFileReason, string]> = {
  ELOOP: ["symlink", "it is a symlink"],
  ENXIO: ["not-a-file", "it is a socket or a device"],
  ENODEV: ["not-a-file", "it is a device"],
  EISDIR: ["not-a-file", "it is a folder"],
  EROFS: ["read-only-filesystem", "the filesystem is read-only"],
  ENOSPC: ["no-space", "the filesystem has no room or no inodes left"],
  EDQUOT: ["no-space", "the disk quota is used up"],
  ENOENT: ["missing-folder", "the folder does not exist"],
  ENOTDIR: ["missing-folder", "what should be its folder is none"],
};

function explain(path: string, verb: string, cause: NodeJS.ErrnoException): WireError {
  const known = REASONS[cause.code ?? ""];
  if (known !== undefined) return refusal(path, known[0], known[1], verb);
  if (cause.code === "EACCES" || cause.code === "EPERM") return explainDenied(path, verb);
  return refusal(path, "other", cause.message, verb);
}

/** With fs.protected_symlinks a symlink shows as EACCES, so the look decides which of the two it was. */
function explainDenied(path: string, verb: string): WireError {
  try {
    const stat = lstatSync(path);
    if (stat.isSymbolicLink()) return refusal(path, "symlink", "it is a symlink", verb);
    const mode = (stat.mode & 0o7777).toString(8).padStart(4, "0");
    return refusal(
      path,
      "permission",
      `permission denied: owner uid ${stat.uid}, group ${stat.gid}, mode ${mode}`,
      verb,
    );
  } catch {
    return refusal(path, "permission", "permission denied by its folder", verb);
  }
}

function refusal(path: string, reason: LockFileReason, state: string, verb = "use"): WireError {
  return new WireError("lock-file", `Cannot ${verb} lock file ${path}: ${state}`, { path, reason });
}
