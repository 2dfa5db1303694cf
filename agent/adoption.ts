/**
 * How an agent takes over what one before it has left: locks that are held, and their sessions.
 *
 * The kernel and /proc have the truth; records only explain it and may be missing, damaged or
 * forged. A record is believed where a process that started when it says has the lock file of that
 * name as descriptor 999, with the lock on it.
 *
 * @module
 */

import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { lockFileName, lockNameOfFile } from "../protocol/lock_name.ts";
import { AdoptedHolder } from "./adopted_holder.ts";
import { LOCK_FD } from "./holder/order.ts";
import { closeDescriptor, copyDescriptor, openPidfd } from "./libc.ts";
import type { LockFile } from "./lock_file.ts";
import type { LockTable } from "./lock_table.ts";
import type { Log } from "./log.ts";
import {
  isAlive,
  listDescriptors,
  listPids,
  type ProcessId,
  readBootId,
  readCommand,
  readPidNamespace,
} from "./proc.ts";
import type { LockRecord, OwnershipRecord, Records } from "./records.ts";
import { Session, type SessionParts } from "./session.ts";

/** What an adoption works with. */
export interface AdoptionParts {
  /** The records that the predecessor has left. */
  records: Records;
  /** The folder of the lock files. */
  lockDir: string;
  /** Where locks go. */
  table: LockTable;
  /** What all sessions share. */
  sessions: SessionParts;
  /** Where events go. */
  log: Log;
}

/**
 * Takes over all locks that records explain. Their sessions are detached: those whose root lives
 * have their silence limit to resume, the others end as if they had ended just now.
 *
 * Holders that no record explains are logged, never ended.
 *
 * @param parts What it works with.
 */
export function adoptLocks(parts: AdoptionParts): void {
  const { records, table, log } = parts;
  for (const name of records.names()) {
    const record = records.read(name);
    const isCurrent = record?.bootId === readBootId() &&
      record.pidNamespace === readPidNamespace();
    let rest = isCurrent ? record.ownerships : [];
    // A command that holds its lock by itself writes records too, and looks after them.
    const left = rest.filter(({ agent }) => !isAlive(agent));
    rest = rest.filter((ownership) => !left.includes(ownership));
    for (const ownership of left) adoptOwnership(parts, name, ownership);
    if (rest.length === 0 && table.claimantsOf(name).length === 0) {
      dropRecord(records, name, record);
    }
  }
  for (const { pid, name } of unexplainedHolders(parts)) log("holder-unexplained", { pid, name });
  for (const session of new Set(parts.sessions.sessions.values())) {
    session.awaitResume("the agent has started anew");
  }
}

function adoptOwnership(parts: AdoptionParts, name: string, record: OwnershipRecord): void {
  const path = join(parts.lockDir, lockFileName(name));
  const file = copyLockFile(record.holder, path);
  if (file === undefined) {
    parts.log("record-stale", { name, owner: record.owner, token: record.token });
    return;
  }
  const { sessions } = parts.sessions;
  const claimants = record.grants.map(({ session }) =>
    sessions.get(session.secretHash) ?? Session.adopt(parts.sessions, record.owner, session)
  );
  parts.table.adopt(name, record, file, new AdoptedHolder(record.holder), claimants);
}

/** The very open file description that the holder has; opening the path anew would make another. */
function copyLockFile(holder: ProcessId, path: string): LockFile | undefined {
  const pidfd = openPidfd(holder.pid);
  if (pidfd === undefined) return undefined;
  try {
    if (!isAlive(holder) || !hasLock(holder.pid, path)) return undefined;
    const fd = copyDescriptor(pidfd, LOCK_FD);
    const { dev, ino } = statSync(`/proc/self/fd/${fd}`);
    return { path, fd, device: dev, inode: ino, close: () => closeDescriptor(fd) };
  } catch {
    return undefined;
  } finally {
    closeDescriptor(pidfd);
  }
}

/** The path may have been unlinked meanwhile; then the link says so, and the lock is lost anyway. */
function hasLock(pid: number, path: string): boolean {
  const target = listDescriptors(pid)?.find(([fd]) => fd === LOCK_FD)?.[1];
  const info = readFileSync(`/proc/${pid}/fdinfo/${LOCK_FD}`, "latin1");
  return target === path && /^lock:.*FLOCK/m.test(info);
}

function dropRecord(records: Records, name: string, record: LockRecord | undefined): void {
  const { bootId, pidNamespace } = record ?? { bootId: "", pidNamespace: "" };
  records.write({ name, bootId, pidNamespace, ownerships: [] });
}

function unexplainedHolders({ lockDir, table }: AdoptionParts): { pid: number; name: string }[] {
  const known = table.holderPids();
  return listPids().flatMap((pid) => {
    if (known.has(pid) || !readCommand(pid)?.startsWith("session-lock-")) return [];
    const target = listDescriptors(pid)?.find(([fd]) => fd === LOCK_FD)?.[1];
    const name = target?.startsWith(`${lockDir}/`) === true
      ? lockNameOfFile(target.slice(lockDir.length + 1))
      : undefined;
    return name === undefined ? [] : [{ pid, name }];
  });
}
