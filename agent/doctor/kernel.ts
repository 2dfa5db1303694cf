/**
 * The kernel: the calls that are used, and the settings that change what an open(2) may do and
 * whether an agent may take over the locks of one before it.
 *
 * @module
 */

import { lstatSync, readdirSync, readFileSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import { lockNameOfFile } from "../../protocol/lock_name.ts";
import { type Finding, found, type Scene } from "./finding.ts";

/**
 * Version of the kernel, fs.protected_regular, fs.protected_symlinks and kernel.yama.ptrace_scope.
 *
 * @param scene What is known of the host.
 */
export function checkKernel({ paths: { lockDir }, uid }: Scene): Finding[] {
  return [
    judgeKernel(release()),
    judgeProtectedRegular(readSetting("fs/protected_regular"), lockDir),
    judgeProtectedSymlinks(readSetting("fs/protected_symlinks")),
    judgePtraceScope(readSetting("kernel/yama/ptrace_scope"), uid),
  ];
}

/**
 * What a kernel version means for holders, for leftover processes and for the next agent.
 *
 * @param version As `uname -r` prints it.
 */
export function judgeKernel(version: string): Finding {
  const [major = 0, minor = 0] = version.split(/[.-]/).map(Number);
  const isAtLeast = (wantedMajor: number, wantedMinor: number) =>
    major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
  const missing = [
    ...(isAtLeast(5, 3) ? [] : ["pidfd_open(2)"]),
    ...(isAtLeast(5, 6) ? [] : ["pidfd_getfd(2)"]),
    ...(isAtLeast(5, 9) ? [] : ["close_range(2)"]),
  ];
  if (missing.length === 0) {
    return found("kernel", "ok", `Linux ${version}: has close_range(2) and pidfd_getfd(2)`);
  }
  const what = `Linux ${version}: lacks ${missing.join(", ")}`;
  const hint = "Linux 5.9 or newer. Without pidfd_open(2) and pidfd_getfd(2) leftover processes " +
    "cannot be ended and a restarted agent cannot take locks over; without close_range(2) holders " +
    "start slower";
  return found("kernel", "warn", what, hint);
}

function judgeProtectedRegular(value: number | undefined, lockDir: string): Finding {
  const id = "protected-regular";
  if (value === undefined) {
    return found(id, "skip", "fs.protected_regular cannot be read: no /proc/sys, or Linux < 4.19");
  }
  const shown = `fs.protected_regular=${value}`;
  if (value === 0) return found(id, "ok", `${shown}: any user can open any lock file it may write`);
  const files = filesOfOthersThan(lockDir, lstatSync(lockDir).uid);
  if (files.length === 0) {
    return found(id, "ok", `${shown}: no lock file is in the way of the shell protocol`);
  }
  const what = `${shown}: the shell protocol exits 92 for all but the owner (root included) on ` +
    files.slice(0, 3).join(", ") + (files.length > 3 ? ` and ${files.length - 3} more` : "");
  return found(id, "warn", what, "while nobody holds them: chown root FILE");
}

function judgeProtectedSymlinks(value: number | undefined): Finding {
  const id = "protected-symlinks";
  if (value === undefined) {
    return found(id, "skip", "fs.protected_symlinks cannot be read: no /proc/sys here");
  }
  if (value > 0) {
    return found(id, "ok", `fs.protected_symlinks=${value}: nobody is led to another file`);
  }
  const what = "fs.protected_symlinks=0: the shell protocol follows a symlink that any user put " +
    "in place of a lock file, and empties what it leads to";
  return found(id, "warn", what, "sysctl -w fs.protected_symlinks=1");
}

/**
 * What Yama's setting means for an agent that is to take over the locks of one before it.
 *
 * @param value The setting; `undefined` where the kernel has no Yama.
 * @param uid Who the agent runs as.
 * @see pidfd_getfd(2), ptrace(2)
 */
export function judgePtraceScope(value: number | undefined, uid: number): Finding {
  const id = "ptrace-scope";
  const shown = value === undefined ? "no kernel.yama.ptrace_scope" : `ptrace_scope=${value}`;
  // Holders let anyone of their own user trace them (PR_SET_PTRACER), which is enough at 1.
  if (value === undefined || value <= 1 || (uid === 0 && value < 3)) {
    return found(id, "ok", `${shown}: a restarted agent may take its locks over`);
  }
  const who = uid === 0 ? "not even root's agent may" : "an agent of this user may not";
  const what = `${shown}: ${who} take locks over after a restart; they stay held by nobody`;
  const hint = uid === 0 ? "kernel.yama.ptrace_scope=2 or lower" : "use the agent of root";
  return found(id, "warn", what, hint);
}

function filesOfOthersThan(lockDir: string, uid: number): string[] {
  try {
    return readdirSync(lockDir).filter((file) => lockNameOfFile(file) !== undefined)
      .filter((file) => lstatSync(join(lockDir, file)).uid !== uid);
  } catch {
    return [];
  }
}

function readSetting(name: string): number | undefined {
  try {
    return Number(readFileSync(`/proc/sys/${name}`, "utf8"));
  } catch {
    return undefined;
  }
}
