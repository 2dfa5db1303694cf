/**
 * One look through /proc, indexed so that many sessions find their processes in it.
 *
 * A host may have ten thousand holders and a thousand sessions that end at once: each process is read
 * once a scan, holders not at all, and a session looks its processes up instead of going through all.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { isDead, listPids, type ProcessStat, readEnvironments, readStat, readUid } from "./proc.ts";

/** Processes between two turns of the event loop, so that a scan delays no claim. */
const PIDS_PER_TURN = 100;

/**
 * Passes of one scan: each reads the processes that came while the last one went on, so that one which
 * is started by another that then ends is not missed. The later ones are short; on a host that starts
 * processes all the time there would be no end to them.
 */
const MAX_PASSES = 5;

/** What /proc/PID/sessionid shows where PAM has set none. */
const NO_AUDIT_SESSION = 4_294_967_295;

/** From OpenSSH 9.8 on the part of sshd that serves one session is a program of its own. */
export const SSHD_NAMES: readonly string[] = ["sshd", "sshd-session"];

/**
 * The variable that the processes of a local program's session have: the ids of all sessions that
 * they belong to, the outermost first, with colons between them.
 *
 * Not the token: sessions that join a lock share that, and the end of one would be the end of all.
 */
export const SESSION_VARIABLE = "SSHLOCK_SESSION";

/** The processes of the host at one time, but for those that belong to no session. */
export class ProcessScan {
  readonly #processes: ReadonlyMap<number, ProcessStat>;
  readonly #children = new Map<number, ProcessStat[]>();
  /** By what it is about; each is made when it is first asked for, and then serves all who ask. */
  readonly #indexes = new Map<string, Promise<Map<unknown, ProcessStat[]>>>();
  readonly #uids = new Map<number, number | undefined>();
  readonly #belowSessionSshd = new Map<number, boolean>();

  private constructor(processes: ReadonlyMap<number, ProcessStat>) {
    this.#processes = processes;
    for (const stat of processes.values()) put(this.#children, stat.parentPid, stat);
  }

  /**
   * Looks through /proc, in turns.
   *
   * @param spared Pids that are not even read.
   */
  static async read(spared: ReadonlySet<number>): Promise<ProcessScan> {
    const processes = new Map<number, ProcessStat>();
    const listed = new Set<number>();
    let looked = 0;
    for (let passes = 0; passes < MAX_PASSES; passes++) {
      const fresh = listPids().filter((pid) => !listed.has(pid));
      if (fresh.length === 0) break;
      for (const pid of fresh) {
        listed.add(pid);
        if (spared.has(pid)) continue;
        const stat = readStat(pid);
        if (stat !== undefined) processes.set(pid, stat);
        if (++looked % PIDS_PER_TURN === 0) await setImmediate();
      }
    }
    return new ProcessScan(processes);
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
  async inScope(scope: string): Promise<ProcessStat[]> {
    const index = await this.#indexBy("scope", ({ pid }) => [readScope(pid)]);
    return index.get(scope) ?? [];
  }

  /**
   * The processes with an audit session id.
   *
   * @param id The id.
   */
  async inAuditSession(id: number): Promise<ProcessStat[]> {
    const index = await this.#indexBy("audit", ({ pid }) => [readAuditSession(pid)]);
    return index.get(id) ?? [];
  }

  /**
   * The processes of a user that have a variable in their environment.
   *
   * @param uid The user; nobody else's environment is read.
   * @param variable The variable.
   */
  async withVariable(
    uid: number,
    { name, value }: { name: string; value: string },
  ): Promise<ProcessStat[]> {
    const index = await this.#indexBy(
      `${uid} ${name}`,
      (stat) => this.#uidOf(stat) === uid ? valuesOf(name, readEnvironments(stat, name)) : [],
    );
    return index.get(value) ?? [];
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

  #uidOf({ pid }: ProcessStat): number | undefined {
    if (!this.#uids.has(pid)) this.#uids.set(pid, readUid(pid));
    return this.#uids.get(pid);
  }

  #indexBy(
    what: string,
    keysOf: (stat: ProcessStat) => unknown[],
  ): Promise<Map<unknown, ProcessStat[]>> {
    let index = this.#indexes.get(what);
    if (index === undefined) this.#indexes.set(what, index = this.#makeIndex(keysOf));
    return index;
  }

  async #makeIndex(keysOf: (stat: ProcessStat) => unknown[]): Promise<Map<unknown, ProcessStat[]>> {
    const index = new Map<unknown, ProcessStat[]>();
    let looked = 0;
    for (const stat of this.#processes.values()) {
      if (isDead(stat)) continue;
      for (const key of keysOf(stat)) if (key !== undefined) put(index, key, stat);
      if (++looked % PIDS_PER_TURN === 0) await setImmediate();
    }
    return index;
  }
}

/**
 * The logind scope of a session that a process is in, as /proc/PID/cgroup shows it.
 *
 * @param pid The process.
 */
export function readScope(pid: number): string | undefined {
  const scope = /\/(session-[^/]+\.scope)$/m.exec(readText(pid, "cgroup"));
  return scope?.[0];
}

/**
 * The audit session id of a process; `undefined` where PAM has set none.
 *
 * @param pid The process.
 */
export function readAuditSession(pid: number): number | undefined {
  const id = Number(readText(pid, "sessionid") || NO_AUDIT_SESSION);
  return id === NO_AUDIT_SESSION ? undefined : id;
}

/** One that lists sessions stands for each of them. */
function valuesOf(variable: string, values: (string | undefined)[]): (string | undefined)[] {
  return variable === SESSION_VARIABLE ? values.flatMap((value) => value?.split(":")) : values;
}

function readText(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "latin1");
  } catch {
    return "";
  }
}

function put<K>(lists: Map<K, ProcessStat[]>, key: K, stat: ProcessStat): void {
  const list = lists.get(key);
  if (list === undefined) lists.set(key, [stat]);
  else list.push(stat);
}
