/**
 * The folder of the lock files: a local tmpfs with room, in which a path proves something.
 *
 * @module
 */

import { statfsSync, statSync } from "node:fs";
import { WireError } from "../../protocol/wire_error.ts";
import { checkLockDir } from "../lock_file.ts";
import { type Finding, found, type Scene } from "./finding.ts";
import { whyNotWritable } from "./tools.ts";

/** Inodes below which new locks will soon be refused. */
const FEW_INODES = 100;

/** Room that counts as none left, in bytes: a new file needs a page for its folder entry at most. */
const LITTLE_ROOM_BYTES = 64 * 1024;

const HINTS: Record<string, string> = {
  "missing-folder": "mount a tmpfs there, or name another folder with --lock-dir",
  "not-tmpfs": "mount -t tmpfs tmpfs FOLDER; locks of network filesystems exclude nobody",
  "unsafe-folder": "chmod +t FOLDER",
};

/**
 * Whether the folder is fit for locks, writable, and not full.
 *
 * @param scene What is known of the host.
 */
export function checkLockFolder({ paths: { lockDir } }: Scene): Finding[] {
  try {
    checkLockDir(lockDir);
  } catch (error) {
    return [found("lock-folder", "fail", (error as Error).message, hintFor(error, lockDir))];
  }
  return [checkMode(lockDir), checkRoom(lockDir)];
}

function hintFor(error: unknown, lockDir: string): string | undefined {
  const reason = error instanceof WireError ? String(error.facts.reason) : "";
  return HINTS[reason]?.replace("FOLDER", lockDir);
}

function checkMode(lockDir: string): Finding {
  const id = "lock-folder";
  const mode = (statSync(lockDir).mode & 0o7777).toString(8).padStart(4, "0");
  const problem = whyNotWritable(lockDir);
  // That it is full is told by the room that is left.
  if (problem !== undefined && problem.code !== "ENOSPC") {
    const isReadOnly = problem.code === "EROFS";
    const state = isReadOnly ? "its filesystem is read-only" : "it is not writable for this user";
    const hint = isReadOnly ? `mount -o remount,rw ${lockDir}` : `chmod 1777 ${lockDir}`;
    return found(id, "fail", `Lock folder ${lockDir} (mode ${mode}): ${state}`, hint);
  }
  return found(id, "ok", `Lock folder ${lockDir}: a local tmpfs, writable, mode ${mode}`);
}

function checkRoom(lockDir: string): Finding {
  const id = "lock-folder-room";
  const { bavail, bsize, ffree, files } = statfsSync(lockDir);
  const freeBytes = bavail * bsize;
  // A tmpfs without a limit of inodes counts none at all.
  const inodes = files === 0 ? "no limit of inodes" : `${ffree} inodes`;
  const what = `Lock folder ${lockDir}: ${describeBytes(freeBytes)} and ${inodes} left`;
  const hint = `remove what fills it, or mount -o remount,size=...,nr_inodes=... ${lockDir}`;
  if (files > 0 && ffree === 0) return found(id, "fail", `${what}: no new lock file fits`, hint);
  const isShort = (files > 0 && ffree < FEW_INODES) || freeBytes < LITTLE_ROOM_BYTES;
  return isShort ? found(id, "warn", what, hint) : found(id, "ok", what);
}

function describeBytes(bytes: number): string {
  if (bytes >= 2 ** 30) return `${Math.floor(bytes / 2 ** 30)} GiB`;
  if (bytes >= 2 ** 20) return `${Math.floor(bytes / 2 ** 20)} MiB`;
  return `${Math.floor(bytes / 2 ** 10)} KiB`;
}
