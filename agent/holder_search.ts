/**
 * The holders that are there when an agent starts, and what each of them keeps.
 *
 * @module
 */

import { basename } from "node:path";
import process from "node:process";
import { lockNameOfFile } from "../protocol/lock_name.ts";
import { LOCK_FD } from "./holder/order.ts";
import { listPids, readCommand, readDescriptor, readExecutable, readRealUid } from "./proc.ts";
import { RecordCopy } from "./record_copy.ts";
import { type KeptRecord, parseKept } from "./records.ts";

/** What the kernel adds to the path of a file that was removed. @see proc_pid_fd(5) */
const DELETED = " (deleted)";

/** A process that is called as a holder is, with a lock file of ours as descriptor 999. */
export interface FoundHolder {
  /** The pid. */
  readonly pid: number;
  /** The lock; `undefined` where its file was removed. */
  readonly name: string | undefined;
  /** The copy that it keeps; absent where it is another user's, or was started without one. */
  readonly copy: RecordCopy | undefined;
  /** What that says; absent while nothing is written in it, or where it is damaged. */
  readonly kept: KeptRecord | undefined;
}

/**
 * Looks for holders in all of /proc, once.
 *
 * @param lockDir The folder of the lock files.
 */
export function findHolders(lockDir: string): FoundHolder[] {
  return listPids().flatMap((pid) => {
    if (readCommand(pid)?.startsWith("session-lock-") !== true) return [];
    const target = readDescriptor(pid, LOCK_FD);
    if (!target.startsWith(`${lockDir}/`)) return [];
    const file = target.slice(lockDir.length + 1);
    const name = lockNameOfFile(file);
    const isLockFile = name !== undefined ||
      (file.endsWith(DELETED) && lockNameOfFile(file.slice(0, -DELETED.length)) !== undefined);
    if (!isLockFile) return [];
    const { copy, text } = RecordCopy.of(pid) ?? {};
    const record = text === undefined ? undefined : parseKept(text);
    // Of this holder, or it is no copy of its record.
    const kept = record?.ownerships[0]?.holder.pid === pid ? record : undefined;
    return [{ pid, name, copy, kept }];
  });
}

/**
 * Whether a process can be a holder of this agent or of one before it: our program, run by this
 * process's user. A file may name any process.
 *
 * @param pid The process.
 */
export function isOwnHolder(pid: number): boolean {
  const executable = readExecutable(pid);
  return executable !== undefined && basename(executable).startsWith("sshlock-holder") &&
    readRealUid(pid) === process.getuid!();
}
