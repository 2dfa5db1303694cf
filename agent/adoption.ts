/**
 * How an agent takes over what one before it has left: locks that are held, and their sessions.
 *
 * The kernel and /proc have the truth; records only explain it and may be missing, damaged or
 * forged. A record is believed where a process that started when it says has the lock file of that
 * name as descriptor 999, with the lock on it.
 *
 * @module
 */

import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { lockFileName, lockNameOfFile } from "../protocol/lock_name.ts";
import { AdoptedHolder } from "./adopted_holder.ts";
import { crashPoint } from "./crash_points.ts";
import type { ExitWatch } from "./exit_watch.ts";
import { LOCK_FD } from "./holder/order.ts";
import { copyWithPidfd, lockOn } from "./lock_file_copy.ts";
import type { LockTable } from "./lock_table.ts";
import type { Log } from "./log.ts";
import {
  isAlive,
  listPids,
  type ProcessId,
  readBootId,
  readCommand,
  readDescriptor,
  readPidNamespace,
  readStat,
} from "./proc.ts";
import { type LockRecord, type OwnershipRecord, partsOfRecord, type Records } from "./records.ts";
import { Session, type SessionParts } from "./session.ts";
import { sendSignals } from "./signals.ts";

/** How a holder is called: by its lock once it has its order, by its program before. */
const HOLDER_COMMS = ["session-lock-", "sshlock-holder"];

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
  /** Tells when a holder ends. */
  holders: ExitWatch;
  /** Where events go. */
  log: Log;
}

/**
 * Takes over all locks that records explain. Their sessions are detached: those whose root lives
 * have their silence limit to resume; the others end as if they had ended just now, and those that
 * the predecessor was ending are ended.
 *
 * Holders that no record explains are logged, never ended.
 *
 * @param parts What it works with.
 */
export function adoptLocks(parts: AdoptionParts): void {
  const { records, log } = parts;
  records.sweep();
  const [bootId, pidNamespace] = [readBootId(), readPidNamespace()];
  const isGone = predecessors();
  for (const name of records.names()) {
    const record = records.read(name);
    const isCurrent = record?.bootId === bootId;
    // Pids of another container mean nothing here, and its agent may come back for them.
    if (isCurrent && record.pidNamespace !== pidNamespace) continue;
    const ownerships = isCurrent ? record.ownerships : [];
    // A command that holds its lock by itself writes records too, and looks after them.
    const left = ownerships.filter(({ agent }) => isGone(agent))
      // Parking writes the record anew: by then all others are in it.
      .sort((a, b) => Number(a.parked !== undefined) - Number(b.parked !== undefined));
    const stale = left.filter((ownership) => adoptOwnership(parts, name, ownership));
    if (stale.length === ownerships.length) dropRecord(records, name, record);
  }
  crashPoint("adoption.all-adopted");
  for (const { pid, name } of unexplainedHolders(parts)) log("holder-unexplained", { pid, name });
  for (const session of new Set(parts.sessions.sessions.values())) {
    // Nobody could be heard so far, and on a busy host thousands of locks take a while.
    session.lastHeardAt = performance.now();
    session.takeUp("the agent has started anew");
  }
  // What became of lock files meanwhile nobody has seen.
  parts.table.checkFiles();
}

/** Whether a process is gone; nearly all records name the same one, and none comes back. */
function predecessors(): (agent: ProcessId) => boolean {
  const gone = new Set<string>();
  return (agent) => {
    const key = `${agent.pid}/${agent.startTime}`;
    if (!gone.has(key) && !isAlive(agent)) gone.add(key);
    return gone.has(key);
  };
}

/** Whether the ownership needs its record no longer, because its holder is gone. */
function adoptOwnership(parts: AdoptionParts, name: string, record: OwnershipRecord): boolean {
  const path = join(parts.lockDir, lockFileName(name));
  const facts = { name, owner: record.owner, token: record.token, holderPid: record.holder.pid };
  let copy: ReturnType<typeof copyWithPidfd>;
  try {
    copy = copyWithPidfd(record.holder, path);
    crashPoint("adoption.file-copied");
  } catch (error) {
    // The holder lives and keeps the lock; an agent with more rights can still take it over.
    parts.log("adoption-failed", { ...facts, message: (error as Error).message });
    return false;
  }
  if (copy === undefined) {
    endIdleHolder(record.holder);
    parts.log("record-stale", facts);
    return true;
  }
  const { sessions } = parts.sessions;
  const claimants = partsOfRecord(record).map(({ session }) =>
    record.parked === undefined
      ? sessions.get(session.secretHash) ?? Session.adopt(parts.sessions, record.owner, session)
      : Session.adoptEnded(parts.sessions, record.owner, session)
  );
  const holder = new AdoptedHolder(record.holder, parts.holders, copy.pidfd);
  parts.table.adopt(name, record, copy.file, holder, claimants);
  crashPoint("adoption.lock-adopted");
  return false;
}

/**
 * Ends a recorded holder that has no lock: its agent was killed before it had given it one, or after
 * it had freed it. A record may be forged, so no process is ended that is no holder or has a lock.
 */
function endIdleHolder(holder: ProcessId): void {
  const comm = isAlive(holder) ? readStat(holder.pid)?.comm : undefined;
  const isHolder = HOLDER_COMMS.some((start) => comm?.startsWith(start));
  if (isHolder && lockOn(holder.pid, LOCK_FD) === undefined) sendSignals(holder, ["SIGKILL"]);
}

function dropRecord(records: Records, name: string, record: LockRecord | undefined): void {
  const { bootId, pidNamespace } = record ?? { bootId: "", pidNamespace: "" };
  records.write({ name, bootId, pidNamespace, ownerships: [] });
}

function unexplainedHolders({ lockDir, table }: AdoptionParts): { pid: number; name: string }[] {
  const known = table.holderPids();
  return listPids().flatMap((pid) => {
    if (known.has(pid) || !readCommand(pid)?.startsWith("session-lock-")) return [];
    const target = readDescriptor(pid, LOCK_FD);
    const name = target.startsWith(`${lockDir}/`)
      ? lockNameOfFile(target.slice(lockDir.length + 1))
      : undefined;
    return name === undefined ? [] : [{ pid, name }];
  });
}
