/**
 * A real lock, taken by a real holder in a folder of its own: the whole way of a claim in small.
 *
 * @module
 */

import { closeSync, constants, fstatSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { HolderPool, type HolderProcess } from "../holder.ts";
import { kernelFileKey, readKernelLocks } from "../kernel_locks.ts";
import { LOCK_FD } from "../holder/order.ts";
import {
  closeDescriptor,
  copyDescriptor,
  flock,
  LOCK_EX,
  LOCK_NB,
  LOCK_UN,
  openPidfd,
} from "../libc.ts";
import { isStillThere, type LockFile, openLockFile } from "../lock_file.ts";
import { readCommand } from "../proc.ts";
import { type Finding, found, type Scene } from "./finding.ts";

const ID = "probe-lock";
const NAME = "doctor";

/** Time a holder has to lock a file that nobody else knows of, in milliseconds. */
const PROBE_LIMIT_MS = 1_000;

/**
 * Locks a file in a new folder inside the lock folder, looks at it as others would, and removes it.
 *
 * @param scene What is known of the host.
 */
export async function checkProbeLock({ paths, uid }: Scene): Promise<Finding[]> {
  let folder: string;
  try {
    folder = mkdtempSync(join(paths.lockDir, "sshlock-doctor-"));
  } catch (error) {
    const what = `Probe lock cannot be taken: ${(error as Error).message}`;
    return [found(ID, "skip", what)];
  }
  try {
    const file = openLockFile(folder, NAME, { peerUid: uid });
    try {
      return await probe(paths.holder, file);
    } finally {
      closeSync(file.fd);
    }
  } catch (error) {
    return [found(ID, "fail", `Probe lock in ${folder} failed: ${(error as Error).message}`)];
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function probe(executable: string, file: LockFile): Promise<Finding[]> {
  const pool = new HolderPool(executable, { keepsSpare: false });
  const order = { name: NAME, shared: false, wait: false, tied: true };
  let holder: HolderProcess | undefined;
  // A file that is no holder of ours may never answer.
  const impatience = setTimeout(() => holder?.kill(), PROBE_LIMIT_MS);
  try {
    const { outcome } = await pool.lock(order, file.fd, { onStart: (each) => holder = each });
    if (outcome.kind === "locked") return [judge(file, holder!.pid), judgeTakeOver(holder!.pid)];
    const reason = outcome.kind === "failed" ? outcome.reason : "it says another has the lock";
    return [found(ID, "fail", `Probe lock was not taken: ${reason}`, hintFor(reason))];
  } finally {
    clearTimeout(impatience);
    flock(file.fd, LOCK_UN);
    holder?.kill();
    await holder?.ended;
    pool.close();
  }
}

function hintFor(reason: string): string {
  return reason.includes("999") ? "raise the limit: ulimit -n 4096" : "the other findings say why";
}

function judge(file: LockFile, pid: number): Finding {
  const problem = excludesNobody(file) ?? isMisnamed(pid) ?? isHidden(file, pid);
  if (problem !== undefined) return found(ID, "fail", `Probe lock: ${problem}`);
  const what = "Probe lock: taken by a holder, refused to others, /proc/locks names the holder";
  return found(ID, "ok", what);
}

/** What a restarted agent does with each holder; a container's filter of system calls may forbid it. */
function judgeTakeOver(pid: number): Finding {
  const id = "take-over";
  const pidfd = openPidfd(pid);
  try {
    if (pidfd === undefined) return found(id, "fail", "Take-over: the probe's holder has ended");
    closeDescriptor(copyDescriptor(pidfd, LOCK_FD));
    return found(id, "ok", "Take-over: a holder's descriptor can be copied");
  } catch (error) {
    const what =
      `Take-over: a holder's descriptor cannot be copied (${(error as Error).message}): ` +
      "after a restart of the agent locks stay held, and sessions lose them";
    const hint = "lower kernel.yama.ptrace_scope; for a container: allow pidfd_getfd(2), " +
      "with systemd-nspawn by SystemCallFilter=pidfd_getfd";
    return found(id, "warn", what, hint);
  } finally {
    if (pidfd !== undefined) closeDescriptor(pidfd);
  }
}

/** What flock(1) by the path would meet. */
function excludesNobody(file: LockFile): string | undefined {
  if (!isStillThere(file)) return "its file was replaced at once; something cleans the folder";
  const { O_RDONLY, O_NOFOLLOW } = constants;
  const other = openSync(file.path, O_RDONLY | O_NOFOLLOW);
  try {
    return flock(other, LOCK_EX | LOCK_NB) ? "a second process could take it as well" : undefined;
  } finally {
    closeSync(other);
  }
}

function isMisnamed(pid: number): string | undefined {
  const command = readCommand(pid);
  if (command === `session-lock-${NAME} infinity`) return undefined;
  return `pgrep cannot find its holder, which shows as "${command?.trim() ?? ""}"`;
}

function isHidden(file: LockFile, pid: number): string | undefined {
  const { dev, ino } = fstatSync(file.fd);
  const key = kernelFileKey(dev, ino);
  const lock = readKernelLocks().find((each) => each.file === key && each.state === "held");
  if (lock?.pid === pid) return undefined;
  return `/proc/locks names pid ${lock?.pid ?? "none"} for it, its holder is pid ${pid}`;
}
