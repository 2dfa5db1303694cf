/**
 * What /proc tells of a process. A process is its pid and its start time, never its pid alone.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import {
  closeSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  statSync,
} from "node:fs";

/** A process that cannot be mistaken for a later one with the same pid. */
export interface ProcessId {
  /** The pid. */
  pid: number;
  /** Start time in clock ticks since boot (field 22 of `/proc/PID/stat`). */
  startTime: number;
}

/** The fields of `/proc/PID/stat` that are used here. */
export interface ProcessStat extends ProcessId {
  /** Name of the executable, 15 bytes at most, or what the process calls itself. */
  comm: string;
  /** One letter: `R` running, `S` sleeping, `D` uninterruptible, `T` stopped, `Z` zombie. */
  state: string;
  /** Pid of the parent. */
  parentPid: number;
  /** Pid of the process that leads its process session. @see setsid(2) */
  sessionId: number;
  /** Threads that have not ended, a main thread that has ended before the others among them. */
  threads: number;
}

/**
 * What `/proc/PID/stat` says, or `undefined` when there is no such process (or none to be seen).
 *
 * @param pid The pid.
 * @throws {Error} As {@linkcode readProcFile}.
 * @see proc(5)
 */
export function readStat(pid: number): ProcessStat | undefined {
  const text = readProcFile(pid, "stat");
  if (text === undefined) return undefined;
  // The name stands in parentheses and may itself have parentheses and spaces.
  const nameEnd = text.lastIndexOf(")");
  const fields = text.slice(nameEnd + 2).split(" ");
  return {
    pid,
    comm: text.slice(text.indexOf("(") + 1, nameEnd),
    state: fields[0]!,
    parentPid: Number(fields[1]),
    sessionId: Number(fields[3]),
    startTime: Number(fields[19]),
    threads: Number(fields[17]),
  };
}

/**
 * Whether a process has ended, and only its exit status is left.
 *
 * State `Z` alone does not say so: it is that of the main thread, and the others may run on.
 *
 * @param stat What /proc says of it.
 * @see pthread_exit(3)
 */
export function isDead({ state, threads }: Pick<ProcessStat, "state" | "threads">): boolean {
  return (state === "Z" || state === "X") && threads <= 1;
}

/**
 * Whether exactly this process still runs; a zombie no longer does. One that cannot be asked about just
 * now, for want of descriptors or memory, counts as alive: it is judged dead by what is seen alone.
 *
 * @param process The process.
 */
export function isAlive(process: ProcessId): boolean {
  try {
    const stat = readStat(process.pid);
    return stat !== undefined && stat.startTime === process.startTime && !isDead(stat);
  } catch {
    return true;
  }
}

/** Longest command line that is shown, in characters: a process may have one of megabytes. */
const MAX_COMMAND_LENGTH = 300;

// Control characters: what a process calls itself must not write to the terminal of who looks at it.
// deno-lint-ignore no-control-regex
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g;

/**
 * The command line with a space for each NUL, or `undefined` when it cannot be read.
 *
 * A long one is cut, and control characters are replaced: it is text of a stranger's.
 *
 * @param pid The pid.
 */
export function readCommand(pid: number): string | undefined {
  const text = readProcFile(pid, "cmdline");
  if (text === undefined) return undefined;
  const start = text.slice(0, MAX_COMMAND_LENGTH).replace(/\0+$/, "");
  const command = start.replaceAll("\0", " ").replace(CONTROL, "?");
  return text.length > MAX_COMMAND_LENGTH ? `${command}…` : command;
}

/**
 * One variable of a process's environment; `undefined` when absent or not to be read.
 *
 * @param pid The pid.
 * @param variable The name of the variable.
 */
export function readEnvironment(pid: number, variable: string): string | undefined {
  return valueIn(readProcFile(pid, "environ"), variable);
}

/**
 * The values of some variables in the environment of a process, read at once.
 *
 * @param stat The process.
 * @param names The variables.
 * @returns `isAny` says whether there is an environment that can be read, `isHidden` that none is ours to
 * read; each variable may have several values where the threads of a process whose main thread has
 * ended differ.
 */
export function readVariables(
  { pid, state }: ProcessStat,
  names: string[],
): { isAny: boolean; isHidden: boolean; values: Map<string, string[]> } {
  const files = state === "Z" ? listThreads(pid).map((tid) => `task/${tid}/environ`) : ["environ"];
  const environments = files.map((file) => readProcFile(pid, file));
  const values = new Map<string, string[]>();
  for (const name of names) {
    const found = environments.map((environment) => valueIn(environment, name));
    values.set(name, found.filter((value) => value !== undefined));
  }
  const isHidden = environments.every((environment) => environment === undefined);
  return { isAny: environments.some((environment) => environment), isHidden, values };
}

/** Flag of a process that is ending; it has no address space, or not for long. */
const PF_EXITING = 0x4;

/**
 * Why a process whose environment is ours to read has been read as one without.
 *
 * `none`: it has none, or is ending. `starting`: it is just becoming another program, and its
 * address space has no environment yet. `there`: it has one, and had it not when it was read.
 *
 * @param pid The pid.
 * @see execve(2), proc_pid_environ(5), proc_pid_stat(5)
 */
export function lookForEnvironment(pid: number): "none" | "starting" | "there" {
  const text = readProcFile(pid, "stat") ?? "";
  // The places of the environment are told only to those who may read it.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ").map(Number);
  const [flags, size, from, to] = [fields[6]!, fields[20]!, fields[47]!, fields[48]!];
  if (!(size > 0) || (flags & PF_EXITING) !== 0) return "none";
  if (to === 0) return "starting";
  return to > from ? "there" : "none";
}

/** Without taking it apart: a search for leftovers reads the environments of all processes. */
function valueIn(environment: string | undefined, variable: string): string | undefined {
  const entries = `\0${environment ?? ""}\0`;
  const entry = `\0${variable}=`;
  const from = entries.indexOf(entry);
  if (from < 0) return undefined;
  return entries.slice(from + entry.length, entries.indexOf("\0", from + entry.length));
}

function listThreads(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

/**
 * The user who has started a process, whatever it runs as; `undefined` when there is no such process.
 *
 * @param pid The pid.
 * @see credentials(7)
 */
export function readRealUid(pid: number): number | undefined {
  const uid = /^Uid:\t(\d+)/m.exec(readProcFile(pid, "status") ?? "")?.[1];
  return uid === undefined ? undefined : Number(uid);
}

/**
 * The user that a process runs as; `undefined` when there is no such process.
 *
 * @param pid The pid.
 */
export function readUid(pid: number): number | undefined {
  try {
    return statSync(`/proc/${pid}`).uid;
  } catch {
    return undefined;
  }
}

/**
 * The children of a process; empty where the kernel does not list them.
 *
 * @param pid The pid.
 */
export function readChildren(pid: number): number[] {
  const text = readProcFile(pid, `task/${pid}/children`);
  return text?.split(" ").filter((word) => word !== "").map(Number) ?? [];
}

/** All pids that can be seen, in no particular order. */
export function listPids(): number[] {
  return readdirSync("/proc").filter((entry) => /^\d+$/.test(entry)).map(Number);
}

/**
 * The pid that the kernel has given out last in this pid namespace, to a process or a thread; after
 * the highest, it goes on with the lowest that are free. `undefined` where the kernel does not tell
 * (CONFIG_CHECKPOINT_RESTORE; /proc/loadavg tells too, but a container may have one that is made up).
 *
 * @see pid_namespaces(7)
 */
export function readLastPid(): number | undefined {
  const text = readText("/proc/sys/kernel/ns_last_pid", true);
  return text === undefined ? undefined : Number(text);
}

/**
 * The pid of the process that a thread belongs to, or of the process itself; `undefined` when there
 * is neither.
 *
 * @param tid A thread's id or a process's pid.
 */
export function readThreadGroup(tid: number): number | undefined {
  const tgid = /^Tgid:\t(\d+)/m.exec(readProcFile(tid, "status") ?? "")?.[1];
  return tgid === undefined ? undefined : Number(tgid);
}

/**
 * The open descriptors of a process as `[number, target]`; `undefined` when they are not ours to see.
 *
 * @param pid The pid.
 */
export function listDescriptors(pid: number): [fd: number, target: string][] | undefined {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((
      fd,
    ) => [Number(fd), readLink(`/proc/${pid}/fd/${fd}`)]);
  } catch {
    return undefined;
  }
}

/**
 * What one open descriptor of a process leads to; empty where it has none of that number, or it is not
 * ours to see.
 *
 * @param pid The pid.
 * @param fd The number of the descriptor.
 */
export function readDescriptor(pid: number, fd: number): string {
  return readLink(`/proc/${pid}/fd/${fd}`);
}

/**
 * The path of the executable of a process; `undefined` when it is not ours to see.
 *
 * @param pid The pid.
 */
export function readExecutable(pid: number): string | undefined {
  return readLink(`/proc/${pid}/exe`) || undefined;
}

/** The host's boot id: another one means that no process from before is left. */
export function readBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}

/** This process's pid namespace, such as `pid:[4026531836]`. */
export function readPidNamespace(): string {
  return readLink("/proc/self/ns/pid");
}

/** The pid namespace that the kernel starts with (PROC_PID_INIT_INO of Linux). */
const FIRST_PID_NAMESPACE = "pid:[4026531836]";

/** Whether no process of this machine is outside of what can be seen here: this is no container. */
export function isFirstPidNamespace(): boolean {
  return readPidNamespace() === FIRST_PID_NAMESPACE;
}

/**
 * Why /proc cannot be relied on here, or `undefined` where it can.
 *
 * Guessing around a hidden /proc would judge living processes dead.
 */
export function whyProcIsBlind(): string | undefined {
  let mounts: string;
  try {
    mounts = readFileSync("/proc/self/mounts", "utf8");
  } catch {
    return "/proc is not mounted";
  }
  const proc = mounts.split("\n").find((line) => line.split(" ")[1] === "/proc");
  const hidepid = /hidepid=(\w+)/.exec(proc ?? "")?.[1];
  if (hidepid !== undefined && hidepid !== "0" && hidepid !== "off") {
    return `/proc is mounted with hidepid=${hidepid}`;
  }
  return undefined;
}

/** Files that the kernel writes in one piece: no second read is needed to know that it was all. */
const WRITTEN_AT_ONCE: readonly string[] = ["stat", "status", "cgroup", "sessionid"];

/** As much as a file of /proc gives in one read at most, but for environments and command lines. */
const buffer = Buffer.alloc(64 * 1024);

/** Errors that say something of this process or of the host, and nothing of what was asked about. */
const OUT_OF: readonly unknown[] = ["EMFILE", "ENFILE", "ENOMEM"];

/**
 * What a file of `/proc/PID` says; `undefined` when there is no such process or file, or when it may
 * not be read.
 *
 * Into one buffer for all: thousands are read in a row, and readFileSync() takes a new one for each.
 *
 * @param pid The pid.
 * @param file Its name below `/proc/PID`.
 * @throws {Error} It could not be asked for: the host or this process is out of descriptors (ENFILE,
 * EMFILE) or memory. That must not be taken for "no such process".
 */
export function readProcFile(pid: number, file: string): string | undefined {
  return readText(`/proc/${pid}/${file}`, WRITTEN_AT_ONCE.includes(file));
}

function readText(path: string, isAtOnce: boolean): string | undefined {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch (error) {
    return nothingThere(error);
  }
  try {
    let text = "";
    for (;;) {
      const length = readSync(fd, buffer, 0, buffer.length, null);
      text += buffer.toString("utf8", 0, length);
      if (length === 0 || (isAtOnce && length < buffer.length)) return text;
    }
  } catch (error) {
    return nothingThere(error);
  } finally {
    closeSync(fd);
  }
}

function nothingThere(error: unknown): undefined {
  if (OUT_OF.includes((error as NodeJS.ErrnoException).code)) throw error;
}

function readLink(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}
