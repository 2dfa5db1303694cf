/**
 * How an agent takes over what one before it has left: locks that are held, and their sessions.
 *
 * The kernel and /proc have the truth: a lock is held where a process has its file as descriptor 999,
 * with the lock on it. Whose it is, the copy of the record says that the holder keeps. The record's
 * file is asked only about holders that keep none, or a damaged one.
 *
 * @module
 */

import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { lockFileName } from "../protocol/lock_name.ts";
import { AdoptedHolder } from "./adopted_holder.ts";
import { crashPoint } from "./crash_points.ts";
import type { ExitWatch } from "./exit_watch.ts";
import { LOCK_FD } from "./holder/order.ts";
import { findHolders, type FoundHolder, isOwnHolder } from "./holder_search.ts";
import { closeDescriptor } from "./libc.ts";
import { copyWithPidfd, lockOn } from "./lock_file_copy.ts";
import type { LockTable } from "./lock_table.ts";
import type { Log } from "./log.ts";
import { endOrphanedWaiter } from "./orphaned_waiter.ts";
import {
  isAlive,
  type ProcessId,
  readBootId,
  readDescriptor,
  readPidNamespace,
  readStat,
} from "./proc.ts";
import {
  isConsistent,
  type LockRecord,
  type OwnershipRecord,
  partsOfRecord,
  type Records,
} from "./records.ts";
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

/** Where and when an agent runs: what was recorded elsewhere says nothing here. */
interface Here {
  bootId: string;
  pidNamespace: string;
  runtimeDir: string;
}

/** By pid. */
type Holders = ReadonlyMap<number, FoundHolder>;

/**
 * Takes over all locks that records explain. Their sessions are detached: those whose root lives
 * have their silence limit to resume; the others end as if they had ended just now, and those that
 * the predecessor was ending are ended.
 *
 * Holders that no record explains are logged; ended are only those that wait for a dead agent.
 *
 * @param parts What it works with.
 */
export function adoptLocks(parts: AdoptionParts): void {
  const { records } = parts;
  records.sweep();
  const { runtimeDir } = records;
  const here: Here = { bootId: readBootId(), pidNamespace: readPidNamespace(), runtimeDir };
  const holders = new Map(findHolders(parts.lockDir).map((holder) => [holder.pid, holder]));
  const kept = keptOwnerships(holders, here);
  const isGone = predecessors();
  for (const name of new Set([...kept.keys(), ...records.names()])) {
    const { ownerships, isOthers } = explain(name, kept.get(name) ?? [], { parts, holders, here });
    // A command that holds its lock by itself writes records too, and looks after them.
    const left = ownerships.filter(({ agent }) => isGone(agent))
      // Parking writes the record anew: by then all others are in it.
      .sort((a, b) => Number(a.parked !== undefined) - Number(b.parked !== undefined));
    const stale = left.filter((each) =>
      adoptOwnership(parts, name, each, holders.get(each.holder.pid))
    );
    if (stale.length === ownerships.length && !isOthers) dropRecord(records, name);
  }
  crashPoint("adoption.all-adopted");
  logUnexplained(parts, holders);
  for (const session of new Set(parts.sessions.sessions.values())) {
    // Nobody could be heard so far, and on a busy host thousands of locks take a while.
    session.lastHeardAt = performance.now();
    session.takeUp("the agent has started anew");
  }
  // What became of lock files meanwhile nobody has seen.
  parts.table.checkFiles();
}

/** What the holders say of each lock. */
function keptOwnerships(holders: Holders, here: Here): Map<string, OwnershipRecord[]> {
  const byName = new Map<string, OwnershipRecord[]>();
  for (const { kept } of holders.values()) {
    // Pids of another container mean nothing here, and an agent in another place has its own locks.
    if (kept === undefined || !isOfHere(kept, here) || kept.runtimeDir !== here.runtimeDir) {
      continue;
    }
    const ownerships = byName.get(kept.name);
    if (ownerships === undefined) byName.set(kept.name, [...kept.ownerships]);
    else ownerships.push(...kept.ownerships);
  }
  for (const [name, ownerships] of byName) {
    if (isConsistent(ownerships)) continue;
    // A holder that was killed before its lock was freed may not be gone yet.
    const held = ownerships.filter(({ holder: { pid } }) => lockOn(pid, LOCK_FD) !== undefined);
    byName.set(name, consistent(held));
  }
  return byName;
}

/** All of them, or those that go together with the ones before. */
function consistent(ownerships: OwnershipRecord[]): OwnershipRecord[] {
  if (isConsistent(ownerships)) return ownerships;
  const some: OwnershipRecord[] = [];
  for (const each of ownerships) if (isConsistent([...some, each])) some.push(each);
  return some;
}

/** Adds what the file says of holders that say nothing themselves. */
function explain(
  name: string,
  kept: OwnershipRecord[],
  { parts: { records }, holders, here }: {
    parts: AdoptionParts;
    holders: Holders;
    here: Here;
  },
): { ownerships: OwnershipRecord[]; isOthers: boolean } {
  // One that is had alone is all there is.
  const record = kept.some(({ shared }) => !shared) ? undefined : records.read(name);
  if (record?.bootId !== here.bootId) return { ownerships: kept, isOthers: false };
  // An agent in the other container may come back for them.
  if (!isOfHere(record, here)) return { ownerships: kept, isOthers: kept.length === 0 };
  const others = record.ownerships.filter(({ holder }) =>
    holders.get(holder.pid)?.kept === undefined
  );
  return { ownerships: consistent([...kept, ...others]), isOthers: false };
}

function isOfHere(record: LockRecord, { bootId, pidNamespace }: Here): boolean {
  return record.bootId === bootId && record.pidNamespace === pidNamespace;
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
function adoptOwnership(
  parts: AdoptionParts,
  name: string,
  record: OwnershipRecord,
  found: FoundHolder | undefined,
): boolean {
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
  if (copy !== undefined && found?.kept === undefined && !isOwnHolder(record.holder.pid)) {
    // The file names somebody else's holder.
    closeDescriptor(copy.pidfd);
    copy.file.close();
    copy = undefined;
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
  const holder = new AdoptedHolder(record.holder, parts.holders, copy.pidfd, found?.copy);
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

function dropRecord(records: Records, name: string): void {
  records.write({ name, bootId: "", pidNamespace: "", ownerships: [] });
}

function logUnexplained({ table, log }: AdoptionParts, holders: Holders): void {
  const known = table.holderPids();
  for (const { pid, name } of holders.values()) {
    if (name === undefined || known.has(pid) || readDescriptor(pid, LOCK_FD) === "") continue;
    if (endOrphanedWaiter(pid)) log("waiter-ended", { pid, name });
    else log("holder-unexplained", { pid, name });
  }
}
