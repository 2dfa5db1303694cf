/**
 * One look through /proc, indexed so that many sessions find their processes in it.
 *
 * A host may have ten thousand holders and a thousand sessions that end at once: each process is read
 * once a scan, holders not at all, and a session looks its processes up instead of going through all.
 *
 * /proc is no snapshot. A process that forks another and ends may be gone when it is read, and what it
 * has started was not listed: a chain of such processes could walk past a scan for ever. So a scan
 * lists again, and is over only after a list of which every process that was new could be read. Then
 * all processes that lived when that list was made have been read while they lived; whatever has come
 * since comes from one of them.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import {
  isDead,
  listPids,
  type ProcessStat,
  readProcFile,
  readRealUid,
  readStat,
  readVariables,
} from "./proc.ts";

/** Processes between two turns of the event loop, so that a scan delays no claim: some milliseconds. */
const PIDS_PER_TURN = 50;

/** Parent of all threads of the kernel: they belong to no session, and there are hundreds. */
const KTHREADD_PID = 2;

/** What /proc/PID/sessionid shows where PAM has set none. */
const NO_AUDIT_SESSION = 4_294_967_295;

/** From OpenSSH 9.8 on the part of sshd that serves one session is a program of its own. */
export const SSHD_NAMES: readonly string[] = ["sshd", "sshd-session"];

/** The variable that the processes of an SSH session have. @see sshd(8) */
export const CONNECTION_VARIABLE = "SSH_CONNECTION";

/**
 * The variable that the processes of a local program's session have: the ids of all sessions that
 * they belong to, the outermost first, with colons between them.
 *
 * Not the token: sessions that join a lock share that, and the end of one would be the end of all.
 */
export const SESSION_VARIABLE = "SSHLOCK_SESSION";

/** A process with all that it may be known by. */
interface Seen {
  readonly stat: ProcessStat;
  /** Keys of {@linkcode keyOf}. */
  readonly marks: string[];
}

/** The processes of the host at one time, but for those that belong to no session. */
export class ProcessScan {
  readonly #processes = new Map<number, ProcessStat>();
  readonly #children = new Map<number, ProcessStat[]>();
  readonly #marked = new Map<string, ProcessStat[]>();
  readonly #belowSessionSshd = new Map<number, boolean>();

  private constructor(seen: Seen[]) {
    for (const { stat, marks } of seen) {
      this.#processes.set(stat.pid, stat);
      put(this.#children, stat.parentPid, stat);
      for (const mark of marks) put(this.#marked, mark, stat);
    }
  }

  /**
   * Looks through /proc, in turns.
   *
   * @param spared Pids that are not even read.
   */
  static async read(spared: ReadonlySet<number>): Promise<ProcessScan> {
    const seen: Seen[] = [];
    const known = new Set(spared);
    let looked = 0;
    for (let isWhole = false; !isWhole;) {
      isWhole = true;
      for (const pid of listPids().filter((pid) => !known.has(pid))) {
        const process = see(pid);
        if (process === "gone") isWhole = false;
        else known.add(pid);
        if (typeof process === "object") seen.push(process);
        if (++looked % PIDS_PER_TURN === 0) await setImmediate();
      }
    }
    return new ProcessScan(seen);
  }

  /**
   * The processes below one, at any depth.
   *
   * @param root The process; another one with its pid has none.
   */
  descendantsOf(root: { pid: number; startTime: number }): ProcessStat[] {
    if (this.#processes.get(root.pid)?.startTime !== root.startTime) return [];
    const found = new Set<ProcessStat>();
    const parents = [root.pid];
    for (const parent of parents) {
      for (const child of this.#children.get(parent) ?? []) {
        // A tree that changes while it is read could show a circle.
        if (child.pid === root.pid || found.has(child)) continue;
        found.add(child);
        parents.push(child.pid);
      }
    }
    return [...found];
  }

  /**
   * The processes in a logind scope.
   *
   * @param scope The scope, as {@linkcode readScope} gives it.
   */
  inScope(scope: string): ProcessStat[] {
    return this.#marked.get(keyOf("scope", scope)) ?? [];
  }

  /**
   * The processes with an audit session id.
   *
   * @param id The id.
   */
  inAuditSession(id: number): ProcessStat[] {
    return this.#marked.get(keyOf("audit", id)) ?? [];
  }

  /**
   * The processes of a user that have a variable in their environment: {@linkcode CONNECTION_VARIABLE}
   * or {@linkcode SESSION_VARIABLE}.
   *
   * @param uid The user; nobody else's environment is believed.
   * @param variable The variable.
   */
  withVariable(uid: number, { name, value }: { name: string; value: string }): ProcessStat[] {
    return this.#marked.get(keyOf(`${uid} ${name}`, value)) ?? [];
  }

  /** Whether it serves an SSH session or runs below an sshd that does. */
  isBelowSessionSshd(stat: ProcessStat): boolean {
    const line: ProcessStat[] = [];
    let isBelow: boolean | undefined;
    for (let next: ProcessStat | undefined = stat; isBelow === undefined;) {
      // A tree that changes while it is read could show a circle.
      if (next === undefined || line.includes(next)) isBelow = false;
      else if (this.#isSessionSshd(next)) isBelow = true;
      else isBelow = this.#belowSessionSshd.get(next.pid);
      if (next !== undefined) line.push(next);
      next = next && this.#processes.get(next.parentPid);
    }
    for (const { pid } of line) this.#belowSessionSshd.set(pid, isBelow);
    return isBelow;
  }

  /** An sshd that serves a session, or guards one that does; the one that listens has no sshd above it. */
  #isSessionSshd({ comm, parentPid }: ProcessStat): boolean {
    if (!SSHD_NAMES.includes(comm)) return false;
    const parent = this.#processes.get(parentPid);
    return comm === "sshd-session" || SSHD_NAMES.includes(parent?.comm ?? "");
  }
}

/** Reads a process, unless it ended before all was read (`gone`) or is not ours to see (`hidden`). */
function see(pid: number): Seen | "gone" | "hidden" {
  const stat = readStat(pid);
  if (stat === undefined) return existsSync(`/proc/${pid}`) ? "hidden" : "gone";
  if (isDead(stat) || stat.parentPid === KTHREADD_PID) return { stat, marks: [] };
  const variables = readVariables(stat, [CONNECTION_VARIABLE, SESSION_VARIABLE]);
  const values = [...variables.values].flatMap(([name, values]) =>
    values.flatMap((value) => valuesOf(name, value)).map((value) => ({ name, value }))
  );
  // Most processes have none of the variables; whose they are is of no interest then.
  const uid = values.length === 0 ? undefined : readRealUid(pid);
  const [cgroup, audit] = [readProcFile(pid, "cgroup"), readProcFile(pid, "sessionid")];
  const isWhole = variables.isAny && (values.length === 0 || uid !== undefined) &&
    cgroup !== undefined && audit !== undefined;
  // One that is ending has no environment any more; one that never had any lives on.
  if (!isWhole && !isStillAlive(stat)) return "gone";
  const marks = values.map(({ name, value }) => keyOf(`${uid} ${name}`, value));
  const [scope, auditSession] = [scopeIn(cgroup ?? ""), auditSessionIn(audit)];
  if (scope !== undefined) marks.push(keyOf("scope", scope));
  if (auditSession !== undefined) marks.push(keyOf("audit", auditSession));
  return { stat, marks: [...new Set(marks)] };
}

function isStillAlive({ pid, startTime }: ProcessStat): boolean {
  const stat = readStat(pid);
  return stat?.startTime === startTime && !isDead(stat);
}

function keyOf(kind: string, value: string | number): string {
  return `${kind}\0${value}`;
}

/**
 * The logind scope of a session that a process is in, with its whole path in /proc/PID/cgroup: a
 * container on this host has scopes of the same names. What the session has put into groups of their
 * own below it is in it too.
 *
 * @param pid The process.
 */
export function readScope(pid: number): string | undefined {
  return scopeIn(readProcFile(pid, "cgroup") ?? "");
}

/**
 * The outermost scope of a session in the text of a /proc/PID/cgroup.
 *
 * @param cgroups The text.
 * @see cgroups(7)
 */
export function scopeIn(cgroups: string): string | undefined {
  return /^\d+:[^:]*:(\/(?:[^/\n]+\/)*?session-[^/\n]+\.scope)(?=\/|$)/m.exec(cgroups)?.[1];
}

/**
 * The audit session id of a process; `undefined` where PAM has set none.
 *
 * @param pid The process.
 */
export function readAuditSession(pid: number): number | undefined {
  return auditSessionIn(readProcFile(pid, "sessionid"));
}

function auditSessionIn(text: string | undefined): number | undefined {
  const id = Number(text || NO_AUDIT_SESSION);
  return id === NO_AUDIT_SESSION ? undefined : id;
}

/** One that lists sessions stands for each of them. */
function valuesOf(variable: string, value: string): string[] {
  return variable === SESSION_VARIABLE ? value.split(":") : [value];
}

function put<K>(lists: Map<K, ProcessStat[]>, key: K, stat: ProcessStat): void {
  const list = lists.get(key);
  if (list === undefined) lists.set(key, [stat]);
  else list.push(stat);
}
