/**
 * One look through /proc, indexed so that many sessions find their processes in it.
 *
 * A host may have ten thousand holders and a thousand sessions that end at once: each process is read
 * once a scan, holders not at all, and a session looks its processes up instead of going through all.
 *
 * /proc is no snapshot. A process that forks another and ends may be gone when it is read, and what it
 * has started was not listed: a chain of such processes could walk past a scan for ever. Others'
 * processes come and go as fast, and a scan that waited until nothing does would wait for ever too. So
 * it is over when the kernel has given out no pid between two looks, the first of which came before
 * all pids that were given out up to then were tried. See {@linkcode ProcessScan.read}.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { performance } from "node:perf_hooks";
import { setImmediate } from "node:timers/promises";
import {
  isDead,
  listPids,
  lookForEnvironment,
  type ProcessId,
  type ProcessStat,
  readLastPid,
  readProcFile,
  readRealUid,
  readStat,
  readThreadGroup,
  readVariables,
} from "./proc.ts";

/** Processes between two turns of the event loop, so that a scan delays no claim: some milliseconds. */
const PIDS_PER_TURN = 50;

/**
 * How long a scan may have the event loop for, in milliseconds, where others have it for long between
 * two turns of its own: locks of ended sessions wait for it, and a busy agent must come to them.
 */
const MAX_TURN_MS = 8;

/** Pids that are tried one by one, at some microseconds each; beyond that a scan begins anew. */
const MAX_BEHIND = 10_000;

/** How often a process is read anew whose environment is not there yet: that takes some 0.1 ms. */
const MAX_READS = 20;

/** How often a process and those above it are read anew because one of them has ended meanwhile. */
const MAX_LINES = 5;

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
export interface Seen {
  /** The process. */
  readonly stat: ProcessStat;
  /** Keys of {@linkcode keyOf}. */
  readonly marks: string[];
}

/** A scan's turn on the event loop: it has half as long as the others had before. */
class Turn {
  #looked = 0;
  #startedAt = performance.now();
  #dueMs = 0;

  /** Whether it is the others' turn. Called after each process. */
  isOver(): boolean {
    return ++this.#looked >= PIDS_PER_TURN && performance.now() - this.#startedAt >= this.#dueMs;
  }

  /** Lets the others do what there is. */
  async pass(): Promise<void> {
    const passedAt = performance.now();
    await setImmediate();
    this.#startedAt = performance.now();
    this.#dueMs = Math.min(MAX_TURN_MS, (this.#startedAt - passedAt) / 2);
    this.#looked = 0;
  }
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
   * Looks through /proc, in turns. If a session has a process when it is over, one of the session was
   * read while it lived: that one, or one that has ended since.
   *
   * Say that S lives at the end. Its pid was given out before the last look at the counter, so it was
   * tried. If it was there then, it was read. If not, its parent was just forking it: then the parent
   * lived from before its pid was given out until after it was tried, and the same goes for the
   * parent. So somewhere up this line one was read, and all of it belongs to the session.
   *
   * That needs care where the line begins, among the pids from before the first look, which are tried
   * by listing them: a parent that is listed may be gone when it is read, and its child not there yet
   * when it was to be listed. So whoever is gone is a reason to list again: a parent that is still
   * forking then has lived all through the first listing and was read, and a child that is there by
   * then is read itself, or all that it has forked came after the first look.
   *
   * @param spared Pids that are not even read.
   */
  static async read(spared: ReadonlySet<number>): Promise<ProcessScan> {
    const seen: Seen[] = [];
    const known = new Set(spared);
    const turn = new Turn();
    const tryAll = async (pids: number[], read: typeof see) => {
      let isWhole = true;
      for (const pid of pids.filter((pid) => !known.has(pid))) {
        const process = read(pid);
        if (process === "gone") isWhole = false;
        else known.add(pid);
        if (typeof process === "object") seen.push(process);
        if (turn.isOver()) await turn.pass();
      }
      return isWhole;
    };

    let upTo = readLastPid();
    if (!await tryAll(listPids(), see)) {
      // Where the kernel does not tell, nothing but a listing of which all could be read will do.
      while (!await tryAll(listPids(), see) && upTo === undefined);
    }
    for (let last = readLastPid(); last !== upTo; last = readLastPid()) {
      const pids = pidsSince(upTo, last);
      if (pids === undefined) return ProcessScan.read(spared);
      await tryAll(pids, seeNew);
      upTo = last;
    }
    return new ProcessScan(seen);
  }

  /**
   * One process with all that are above it, as they are now: what belongs to a session shows of it as
   * in a look at all.
   *
   * @param pid The process; no thread's id.
   * @param above Those above others that were read a moment ago; those above this one are added.
   * @returns `undefined` when it has ended, or is not ours to see.
   */
  static readLine(pid: number, above: Map<number, Seen> = new Map()): ProcessScan | undefined {
    for (let tries = 0; tries < MAX_LINES; tries++) {
      const line = new Map<number, Seen>();
      let process: ReturnType<typeof see> = "hidden";
      // A tree that changes while it is read could show a circle.
      for (let next = pid; next > 0 && !line.has(next); next = process.stat.parentPid) {
        process = next === pid ? see(pid) : seeAbove(next, above);
        if (typeof process !== "object") break;
        line.set(next, process);
      }
      if (!line.has(pid)) return undefined;
      // Whoever had a parent that is gone has another one by now.
      if (process !== "gone") return new ProcessScan([...line.values()]);
    }
    return undefined;
  }

  /**
   * A process.
   *
   * @param id The process; another one with its pid is not meant.
   */
  get({ pid, startTime }: ProcessId): ProcessStat | undefined {
    const stat = this.#processes.get(pid);
    return stat?.startTime === startTime ? stat : undefined;
  }

  /**
   * The processes below one, at any depth.
   *
   * @param root The process; another one with its pid has none.
   */
  descendantsOf(root: ProcessId): ProcessStat[] {
    if (this.get(root) === undefined) return [];
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

  /**
   * The processes of a user that may be commands which an sshd has forked and which are not started
   * yet, when that sshd is gone: they have its name, and no parent and no variable that says whose they
   * are. An sshd that was left by the one that listens looks the same when it does not sleep.
   *
   * @param uid The user.
   */
  forkedBySshd(uid: number): ProcessStat[] {
    return (this.#marked.get(keyOf("forked", uid)) ?? []).filter(({ parentPid }) =>
      !SSHD_NAMES.includes(this.#processes.get(parentPid)?.comm ?? "")
    );
  }

  /**
   * The processes of a user that are just becoming another program: the kernel gives them their
   * environment last, so whose they are does not show.
   *
   * @param uid The user.
   */
  starting(uid: number): ProcessStat[] {
    return this.#marked.get(keyOf("starting", uid)) ?? [];
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
  const { variables, isStarting } = readOwnVariables(stat);
  const values = [...variables.values].flatMap(([name, values]) =>
    values.flatMap((value) => valuesOf(name, value)).map((value) => ({ name, value }))
  );
  const isForked = SSHD_NAMES.includes(stat.comm) && stat.state !== "S";
  // Of most processes it is of no interest whose they are.
  const isUidDue = values.length > 0 || isForked || isStarting;
  const uid = isUidDue ? readRealUid(pid) : undefined;
  const [cgroup, audit] = [readProcFile(pid, "cgroup"), readProcFile(pid, "sessionid")];
  const isWhole = (variables.isAny || isStarting) && isUidDue === (uid !== undefined) &&
    cgroup !== undefined && audit !== undefined;
  // One that is ending has no environment any more; one that never had any lives on.
  if (!isWhole && !isStillAlive(stat)) return "gone";
  const marks = values.map(({ name, value }) => keyOf(`${uid} ${name}`, value));
  const [scope, auditSession] = [scopeIn(cgroup ?? ""), auditSessionIn(audit)];
  if (scope !== undefined) marks.push(keyOf("scope", scope));
  if (auditSession !== undefined) marks.push(keyOf("audit", auditSession));
  if (isForked && uid !== undefined) marks.push(keyOf("forked", uid));
  if (isStarting && uid !== undefined) marks.push(keyOf("starting", uid));
  return { stat, marks: [...new Set(marks)] };
}

/** As {@linkcode see}, with what it is known by from before where it has been seen already. */
function seeAbove(pid: number, known: Map<number, Seen>): ReturnType<typeof see> {
  const [before, stat] = [known.get(pid), readStat(pid)];
  if (before !== undefined && before.stat.startTime === stat?.startTime) return { ...before, stat };
  const process = see(pid);
  if (typeof process === "object") known.set(pid, process);
  return process;
}

/** `isStarting`: it is becoming another program, and what environment it has does not show. */
function readOwnVariables(stat: ProcessStat) {
  for (let reads = 1;; reads++) {
    const variables = readVariables(stat, [CONNECTION_VARIABLE, SESSION_VARIABLE]);
    const isClear = variables.isAny || variables.isHidden;
    const look = isClear ? "none" : lookForEnvironment(stat.pid);
    if (look === "none" || reads === MAX_READS) return { variables, isStarting: look !== "none" };
  }
}

/**
 * Reads a process by a pid that was given out: that may be a thread's, which no listing has. Most are
 * gone, and to ask first costs a tenth of an error.
 */
function seeNew(pid: number): Seen | "gone" | "hidden" {
  if (!existsSync(`/proc/${pid}`)) return "gone";
  const leader = readThreadGroup(pid);
  return leader === undefined || leader === pid ? see(pid) : "hidden";
}

/**
 * What was given out since; `undefined` where that is too much to try (this process was stopped), or
 * where the pids began anew, so that those that were read may be others' by now.
 */
function pidsSince(before: number | undefined, last: number | undefined): number[] | undefined {
  const count = (last ?? NaN) - (before ?? NaN);
  if (!(count > 0 && count <= MAX_BEHIND)) return undefined;
  return Array.from({ length: count }, (_, index) => last! - count + 1 + index);
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
