import { readFileSync } from "node:fs";

/** Whether the long form is asked for. */
export const LONG = process.env.SSHLOCK_TEST_SOAK === "1";

/** What a run works with. */
export interface Sizes {
  sessions: number;
  locks: number;
}

/** What fits, and why it is less than what was asked for. */
export interface FittingSizes extends Sizes {
  why?: string;
}

/** Descriptors that the agent keeps back and uses itself, with room to spare. */
const AGENT_DESCRIPTORS = 200;

/** Processes of everything else on the machine, with room to spare. */
const OTHER_PROCESSES = 4_000;

/**
 * The sizes that are asked for, or smaller ones where the machine's limits say so, with the reason.
 *
 * The agent may open as many files as the hard limit says; it raises its own limit.
 *
 * @param asked Each session has at least one lock, a process and a leftover; each lock a holder.
 */
export function fitToMachine(asked: Sizes): FittingSizes {
  const descriptors = hardLimit("Max open files");
  const processes = Math.min(
    hardLimit("Max processes"),
    numberIn("/proc/sys/kernel/pid_max"),
    numberIn("/proc/sys/kernel/threads-max"),
    numberIn("/sys/fs/cgroup/pids.max"),
  );
  const sessions = Math.min(asked.sessions, Math.floor((descriptors - AGENT_DESCRIPTORS) / 4));
  // A connection for each session, two descriptors for each lock, and a third while it is claimed: a
  // session claims one after the other, and all of them may be about it at once.
  const byDescriptors = Math.floor((descriptors - AGENT_DESCRIPTORS - 2 * sessions) / 2);
  const byProcesses = processes - OTHER_PROCESSES - 2 * sessions;
  const locks = Math.min(asked.locks, byDescriptors, byProcesses);
  if (sessions === asked.sessions && locks === asked.locks) return { sessions, locks };
  const why =
    `${sessions} sessions and ${locks} locks, not ${asked.sessions} and ${asked.locks}: ` +
    `this machine allows ${descriptors} open files and ${processes} processes`;
  return { sessions, locks, why };
}

function hardLimit(name: string): number {
  const limits = readFileSync("/proc/self/limits", "latin1");
  const hard = new RegExp(`^${name} +\\S+ +(\\S+)`, "m").exec(limits)?.[1];
  return hard === undefined || hard === "unlimited" ? Infinity : Number(hard);
}

function numberIn(path: string): number {
  try {
    const text = readFileSync(path, "latin1").trim();
    return text === "max" ? Infinity : Number(text);
  } catch {
    return Infinity;
  }
}
