import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { until } from "./events.ts";

/** What /proc/PID/stat says about a process or a thread. @see proc_pid_stat(5) */
export interface ProcessStat {
  pid: number;
  /** The name in the kernel: 15 bytes at most. */
  comm: string;
  /** One letter; Z is a zombie, T is stopped. */
  state: string;
  ppid: number;
  /** Clock ticks since boot; with the pid it identifies a process for good. */
  startTicks: number;
}

/** Reads a process's stat line; `undefined` when there is no such process. */
export function readStat(pid: number | string, root = "/proc"): ProcessStat | undefined {
  const text = tryOrUndefined(() => readFileSync(`${root}/${pid}/stat`, "utf8"));
  if (text === undefined) return undefined;
  // comm may contain spaces and parentheses: the fields begin behind the last ")".
  const end = text.lastIndexOf(")");
  const fields = text.slice(end + 2).split(" ");
  return {
    pid: Number(pid),
    comm: text.slice(text.indexOf("(") + 1, end),
    state: fields[0] ?? "?",
    ppid: Number(fields[1]),
    startTicks: Number(fields[19]),
  };
}

/** Whether the process exists and is no zombie. */
export function isAlive(pid: number): boolean {
  const stat = readStat(pid);
  return stat !== undefined && stat.state !== "Z" && stat.state !== "X";
}

/** All live processes below a process, at any depth, parents first. */
export function descendants(pid: number): ProcessStat[] {
  const all = allPids().map((p) => readStat(p)).filter((stat) => stat !== undefined);
  const found: ProcessStat[] = [];
  for (let parents = [pid]; parents.length > 0;) {
    const children = all.filter((stat) => parents.includes(stat.ppid));
    found.push(...children.filter((stat) => stat.state !== "Z" && stat.state !== "X"));
    parents = children.map((stat) => stat.pid);
  }
  return found;
}

/** The processes that have fd 999 on a file in this folder: holders, and shells that run the shell protocol. */
export function processesWithLockIn(lockDir: string): number[] {
  return allPids().filter((pid) => {
    const target = tryOrUndefined(() => readlinkSync(`/proc/${pid}/fd/999`));
    return target?.startsWith(`${lockDir}/`) ?? false;
  });
}

/** The process's arguments as in /proc/PID/cmdline; empty when it is gone. */
export function readArgv(pid: number): string[] {
  const text = tryOrUndefined(() => readFileSync(`/proc/${pid}/cmdline`, "latin1")) ?? "";
  return text.split("\0").filter((arg) => arg !== "");
}

/** Sends a signal to one process; `false` when it is gone already. */
export function signalPid(pid: number, signal: NodeJS.Signals): boolean {
  // kill(2) takes 0 and negative numbers for whole groups: never from here.
  if (!Number.isInteger(pid) || pid <= 1) throw new RangeError(`Cannot signal pid ${pid}`);
  try {
    return process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
    throw error;
  }
}

/** Sends KILL and waits until the process is gone (or a zombie of its parent). */
export async function killAndConfirm(pid: number): Promise<void> {
  if (signalPid(pid, "SIGKILL")) await until(() => !isAlive(pid), { what: `the end of ${pid}` });
}

/**
 * Stops a process and waits until each of its threads has stopped: from then on it does nothing any more,
 * while its connections are still open. `false` when it is gone already.
 */
export async function freeze(pid: number): Promise<boolean> {
  if (!signalPid(pid, "SIGSTOP")) return false;
  return await until(() => {
    if (!isAlive(pid)) return "gone";
    const threads = tryOrUndefined(() => readdirSync(`/proc/${pid}/task`)) ?? [];
    const states = threads.map((tid) => readStat(tid, `/proc/${pid}/task`)?.state);
    return states.every((state) => state === "T") && states.length > 0 && "stopped";
  }, { what: `the stop of ${pid}`, intervalMs: 0 }) === "stopped";
}

function allPids(): number[] {
  return readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map(Number);
}

/** /proc entries vanish while they are read: that is an answer, not an error. */
function tryOrUndefined<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
