/**
 * The processes that belong to a session, found by the marks that a session leaves on them.
 *
 * One look through /proc, in turns, so that it delays no claim. What has left all marks (a systemd
 * unit, or without PAM `env -u SSH_CONNECTION setsid`) has detached on purpose and is not found.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import process from "node:process";
import { setImmediate } from "node:timers/promises";
import {
  listPids,
  type ProcessId,
  type ProcessStat,
  readEnvironment,
  readStat,
  readUid,
} from "./proc.ts";

/** What /proc/PID/sessionid shows where PAM has set none. */
const NO_AUDIT_SESSION = 4_294_967_295;

/** Processes between two turns of the event loop. */
const PIDS_PER_TURN = 100;

/** From OpenSSH 9.8 on the part of sshd that serves one session is a program of its own. */
export const SSHD_NAMES: readonly string[] = ["sshd", "sshd-session"];

// What a process calls itself must not write to the terminal of who looks at it.
// deno-lint-ignore no-control-regex
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/g;

/** What a session's processes can be known by. */
export interface SessionMarks {
  /** The process that the session ends with: its sshd, or the local program that claimed. */
  root: ProcessId;
  /** The user of the session. */
  uid: number;
  /**
   * A variable that the session's processes have in their environment. It is written by whoever runs
   * the process, so it is believed only for processes of the session's own user.
   */
  variable?: { name: string; value: string };
  /** The session's logind scope, as /proc/PID/cgroup shows it. */
  scope?: string;
  /** The session's audit session id. */
  auditSession?: number;
}

/** A process of a session. */
export interface Leftover extends ProcessId {
  /** Name of the executable, or what the process calls itself. */
  comm: string;
  /** One letter, as in `/proc/PID/stat`; `D` cannot be ended, only waited for. */
  state: string;
}

/**
 * Reads the marks of a session while its root lives.
 *
 * @param root The process that the session ends with.
 * @param uid The user of the session.
 * @param variable The variable that marks its processes, where it is known already.
 */
export function readMarks(
  root: ProcessId,
  uid: number,
  variable?: { name: string; value: string },
): SessionMarks {
  return {
    root: { pid: root.pid, startTime: root.startTime },
    uid,
    variable,
    scope: readScope(root.pid),
    auditSession: readAuditSession(root.pid),
  };
}

/**
 * The processes of a session that live; zombies are dead, and the root is not among them.
 *
 * @param marks What they are known by.
 * @param spared Pids that never belong to a session: the agent and all holders.
 */
export async function findLeftovers(
  marks: SessionMarks,
  spared: ReadonlySet<number>,
): Promise<Leftover[]> {
  const processes = await readProcesses();
  const found: Leftover[] = [];
  for (const stat of processes.values()) {
    if (stat.state === "Z" || spared.has(stat.pid) || stat.pid === process.pid) continue;
    if (!isOfSession(stat, marks, processes)) continue;
    const { pid, startTime, comm, state } = stat;
    found.push({ pid, startTime, comm: comm.replace(CONTROL, "?"), state });
  }
  return found;
}

async function readProcesses(): Promise<Map<number, ProcessStat>> {
  const processes = new Map<number, ProcessStat>();
  for (const [index, pid] of listPids().entries()) {
    const stat = readStat(pid);
    if (stat !== undefined) processes.set(pid, stat);
    if (index % PIDS_PER_TURN === PIDS_PER_TURN - 1) await setImmediate();
  }
  return processes;
}

function isOfSession(
  stat: ProcessStat,
  marks: SessionMarks,
  processes: Map<number, ProcessStat>,
): boolean {
  const { root } = marks;
  if (stat.pid === root.pid) return false;
  const line = ancestorsOf(stat, processes);
  if (line.some(({ pid, startTime }) => pid === root.pid && startTime === root.startTime)) {
    return true;
  }
  // Under another session's sshd, or sshd itself: never ours, whatever its environment says.
  if ([stat, ...line].some((ancestor) => isSessionSshd(ancestor, processes))) return false;
  return hasMark(stat.pid, marks);
}

function ancestorsOf(stat: ProcessStat, processes: Map<number, ProcessStat>): ProcessStat[] {
  const line: ProcessStat[] = [];
  let parent = processes.get(stat.parentPid);
  // A tree that changes while it is read could show a circle.
  while (parent !== undefined && !line.includes(parent)) {
    line.push(parent);
    parent = processes.get(parent.parentPid);
  }
  return line;
}

/** An sshd that serves a session, or guards one that does; the one that listens has no sshd above it. */
function isSessionSshd(stat: ProcessStat, processes: Map<number, ProcessStat>): boolean {
  if (!SSHD_NAMES.includes(stat.comm)) return false;
  const parent = processes.get(stat.parentPid);
  return stat.comm === "sshd-session" || SSHD_NAMES.includes(parent?.comm ?? "");
}

function hasMark(pid: number, { uid, variable, scope, auditSession }: SessionMarks): boolean {
  if (scope !== undefined && readScope(pid) === scope) return true;
  if (auditSession !== undefined && readAuditSession(pid) === auditSession) return true;
  if (variable === undefined || readUid(pid) !== uid) return false;
  return readEnvironment(pid, variable.name) === variable.value;
}

function readScope(pid: number): string | undefined {
  const scope = /\/(session-[^/]+\.scope)$/m.exec(readText(pid, "cgroup"));
  return scope?.[0];
}

function readAuditSession(pid: number): number | undefined {
  const id = Number(readText(pid, "sessionid") || NO_AUDIT_SESSION);
  return id === NO_AUDIT_SESSION ? undefined : id;
}

function readText(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "latin1");
  } catch {
    return "";
  }
}
