/**
 * Records of granted locks, `RUNTIME_DIR/locks/NAME.json`: hints beside the kernel's truth, for
 * people, for other agents, and for an agent that starts after one that died.
 *
 * @module
 */

import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { isLockName } from "../protocol/lock_name.ts";
import type { EndPolicy } from "./clean_up.ts";
import { crashPoint } from "./crash_points.ts";
import type { SessionMarks } from "./leftovers.ts";
import type { EndCause } from "./ownership.ts";
import type { Peer } from "./peer.ts";
import { type ProcessId, readStat } from "./proc.ts";
import type { SessionKind } from "./session_root.ts";

/** What is recorded of a session: enough for the next agent to take it over or to end it. */
export interface SessionRecord {
  /** Id of the session; not secret. */
  id: string;
  /** SHA-256 of the secret that it reattaches with, in hex. */
  secretHash: string;
  /** The process at the other end of its connection. */
  peer: Peer;
  /** What it is. */
  kind: SessionKind;
  /** What its processes are known by. */
  marks: SessionMarks;
  /** Its silence limit, in milliseconds; 0 for none. */
  silenceMs: number;
  /** Why it is being ended; absent while it is not. */
  ending?: EndCause;
}

/** What is recorded of a session's part in a lock. */
export interface GrantRecord {
  /** What the lock is for. */
  purpose?: string;
  /** What becomes of the session's processes when it ends. */
  onEnd: EndPolicy;
  /** Time between TERM and KILL, in milliseconds. */
  graceMs: number;
  /** How long the lock stays reserved for its owner after a dropped link, in milliseconds. */
  parkMs: number;
  /** The session. */
  session: SessionRecord;
}

/** What is recorded of one ownership of a lock. */
export interface OwnershipRecord {
  /** The identity the claim was made under. */
  owner: string;
  /** The user who claimed. */
  uid: number;
  /** The fencing token. */
  token: number;
  /** When it was granted, in milliseconds since 1970. */
  since: number;
  /** Whether the lock is shared with other owners. */
  shared: boolean;
  /** The holder. */
  holder: ProcessId;
  /** The process that granted it. */
  agent: ProcessId;
  /** The sessions of the owner that have it. */
  grants: GrantRecord[];
  /** Present while no session has it: what the last one had, and until when it is reserved. */
  parked?: { grant: GrantRecord; until: number };
}

/** The record of a lock. */
export interface LockRecord {
  /** The lock. */
  name: string;
  /** Boot in which it was written: after another one, nothing of it is left. */
  bootId: string;
  /** Pid namespace in which its pids mean something. */
  pidNamespace: string;
  /** Who has the lock; several only while it is shared. */
  ownerships: OwnershipRecord[];
}

/** The record of one ownership as its holder keeps it. */
export interface KeptRecord extends LockRecord {
  /** The runtime folder of the agent that has written it: other agents' locks are theirs. */
  runtimeDir: string;
}

/** The records of one runtime folder. */
export class Records {
  readonly #folder: string;
  /** The inode that {@linkcode prepare} has found or made. */
  #inode: number | undefined;
  #runtimeDir = "";

  /**
   * @param runtimeDir The runtime folder; it must exist.
   */
  constructor(runtimeDir: string) {
    this.#folder = join(runtimeDir, "locks");
  }

  /** Makes the folder. */
  prepare(): void {
    // Only where somebody has removed it under a running agent; ensurePrivateFolder() made it.
    mkdirSync(dirname(this.#folder), { recursive: true, mode: 0o700 });
    mkdirSync(this.#folder, { recursive: true, mode: 0o750 });
    this.#inode = statSync(this.#folder).ino;
    this.#runtimeDir = realpathSync(dirname(this.#folder));
  }

  /** The runtime folder, once it was made ready. */
  get runtimeDir(): string {
    return this.#runtimeDir;
  }

  /**
   * Removes what writers that died in between have left, and a folder in the place of a record: nobody
   * but us can have made one here, and no record could be written.
   */
  sweep(): void {
    for (const file of this.#list()) {
      if (file.endsWith(".json") && isFolder(join(this.#folder, file))) {
        rmSync(join(this.#folder, file), { recursive: true, force: true });
      }
      const writer = /\.json\.(\d+)\.new$/.exec(file)?.[1];
      if (writer === undefined || readStat(Number(writer)) !== undefined) continue;
      rmSync(join(this.#folder, file), { force: true });
    }
  }

  /** Whether the folder is still the one that was made ready: else the records in it are lost. */
  isThere(): boolean {
    return statSync(this.#folder, { throwIfNoEntry: false })?.ino === this.#inode;
  }

  /**
   * Replaces the record of a lock in one step; removes it when nobody has the lock.
   *
   * A record that cannot be written is reported and costs no lock: the kernel has the truth.
   *
   * @param record The record.
   * @returns What stood in the way, or `undefined`.
   */
  write(record: LockRecord): Error | undefined {
    const path = this.#path(record.name);
    try {
      if (record.ownerships.length === 0) removeRecord(path);
      else this.#replace(path, JSON.stringify(record));
      return undefined;
    } catch (error) {
      return error as Error;
    }
  }

  #replace(path: string, text: string): void {
    // The writer's own, so that what a dead one has left can be told from one that is being written.
    const draft = `${path}.${process.pid}.new`;
    try {
      this.#writeDraft(draft, text);
      crashPoint("record.drafted");
      renameSync(draft, path);
    } catch (error) {
      // A full filesystem leaves a part of it, and nobody would remove that while this process lives.
      removeDraft(draft);
      throw error;
    }
    crashPoint("record.replaced");
  }

  #writeDraft(draft: string, text: string): void {
    try {
      writeFileSync(draft, text, { mode: 0o640 });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      this.prepare();
      writeFileSync(draft, text, { mode: 0o640 });
    }
  }

  /**
   * The record of a lock; `undefined` when there is none or it is damaged.
   *
   * @param name A valid lock name.
   */
  read(name: string): LockRecord | undefined {
    try {
      const record: unknown = JSON.parse(readFileSync(this.#path(name), "utf8"));
      return isLockRecord(record) && record.name === name ? record : undefined;
    } catch {
      return undefined;
    }
  }

  /** The names of all locks that have a record, damaged ones included. */
  names(): string[] {
    return this.#list()
      .filter((file) => file.endsWith(".json"))
      .map((file) => file.slice(0, -".json".length))
      .filter(isLockName);
  }

  #list(): string[] {
    try {
      return readdirSync(this.#folder);
    } catch {
      return [];
    }
  }

  #path(name: string): string {
    return join(this.#folder, `${name}.json`);
  }
}

/**
 * The parts that sessions have in a recorded ownership, or that the last one had where it is parked.
 *
 * @param record The record.
 */
export function partsOfRecord({ grants, parked }: OwnershipRecord): GrantRecord[] {
  return parked === undefined ? grants : [parked.grant];
}

function isFolder(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

function removeDraft(path: string): void {
  try {
    // Deno's unlink(2) removes empty folders too: one may be in the way of the draft.
    if (lstatSync(path).isFile()) unlinkSync(path);
  } catch {
    // It was not made.
  }
}

function removeRecord(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  // Deno's unlink(2) removes empty folders too, and one that is in the way is no record.
  if (found === undefined || found.isDirectory()) return;
  rmSync(path, { force: true });
  crashPoint("record.removed");
}

function isLockRecord(value: unknown): value is LockRecord {
  const record = value as LockRecord | null;
  return typeof record === "object" && record !== null && typeof record.name === "string" &&
    typeof record.bootId === "string" && typeof record.pidNamespace === "string" &&
    Array.isArray(record.ownerships) && record.ownerships.every(isOwnership) &&
    isConsistent(record.ownerships);
}

/**
 * The record of one ownership from what its holder keeps.
 *
 * @param text What it keeps.
 * @returns `undefined` where it is no record.
 */
export function parseKept(text: string): KeptRecord | undefined {
  try {
    const record = JSON.parse(text) as KeptRecord;
    const isKept = isLockRecord(record) && isLockName(record.name) &&
      record.ownerships.length === 1;
    return isKept && typeof record.runtimeDir === "string" ? record : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Whether ownerships can be one lock's at the same time: a lock that nobody has, or one that is had
 * twice over, would never be free or be free too early.
 *
 * @param ownerships The ownerships.
 */
export function isConsistent(ownerships: OwnershipRecord[]): boolean {
  const sessions = ownerships.flatMap(partsOfRecord).map(({ session }) => session.secretHash);
  const holders = ownerships.map(({ holder }) => holder.pid);
  return ownerships.every((ownership) => partsOfRecord(ownership).length > 0) &&
    ownerships.every(({ grants, parked }) => parked === undefined || grants.length === 0) &&
    (ownerships.length < 2 || ownerships.every(({ shared }) => shared === true)) &&
    new Set(sessions).size === sessions.length && new Set(holders).size === holders.length;
}

function isOwnership(value: unknown): value is OwnershipRecord {
  const ownership = value as OwnershipRecord | null;
  return typeof ownership === "object" && ownership !== null &&
    typeof ownership.owner === "string" && Number.isSafeInteger(ownership.token) &&
    Number.isSafeInteger(ownership.uid) && Number.isFinite(ownership.since) &&
    isProcessId(ownership.holder) && isProcessId(ownership.agent) &&
    Array.isArray(ownership.grants) && ownership.grants.every(isGrant) &&
    (ownership.parked === undefined || isParking(ownership.parked));
}

function isParking(value: unknown): boolean {
  const parking = value as OwnershipRecord["parked"] | null;
  return Number.isFinite(parking?.until) && isGrant(parking?.grant);
}

function isGrant(value: unknown): value is GrantRecord {
  const grant = value as GrantRecord | null;
  const { session, onEnd, graceMs, parkMs } = grant ?? {};
  return typeof session?.id === "string" && /^[0-9a-f]{64}$/.test(session.secretHash) &&
    Number.isSafeInteger(session.peer?.pid) && Number.isSafeInteger(session.peer.uid) &&
    (session.kind === "ssh" || session.kind === "process") && isProcessId(session.marks?.root) &&
    Number.isSafeInteger(session.marks.uid) && Number.isFinite(session.silenceMs) &&
    (session.ending === undefined || isEndCause(session.ending)) &&
    (onEnd === "kill" || onEnd === "drain" || onEnd === "leave") && Number.isFinite(graceMs) &&
    Number.isFinite(parkMs);
}

function isEndCause(value: unknown): value is EndCause {
  const cause = value as EndCause | null;
  return typeof cause?.reason === "string" && typeof cause.detail === "string";
}

function isProcessId(value: unknown): value is ProcessId {
  const id = value as ProcessId | null;
  return typeof id === "object" && id !== null && Number.isSafeInteger(id.pid) && id.pid > 1 &&
    Number.isSafeInteger(id.startTime);
}
