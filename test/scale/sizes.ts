import { readFileSync } from "node:fs";
import type { TestContext } from "node:test";

/** Whether the long form is asked for. */
export const LONG = process.env.SSHLOCK_TEST_SOAK === "1";

/** What a run works with. */
export interface Sizes {
  sessions: number;
  locks: number;
}

/** Descriptors that the agent keeps back and uses itself, with room to spare. */
const AGENT_DESCRIPTORS = 200;

/** Processes of everything else on the machine, with room to spare. */
const OTHER_PROCESSES = 4_000;

/**
 * The sizes that are asked for, or smaller ones where the machine's limits say so, with the reason.
 *
 * @param asked Each session has at least one lock, a process and a leftover; each lock a holder.
 */
export function fitToMachine(t: TestContext, asked: Sizes): Sizes {
  const descriptors = softLimit("Max open files");
  const processes = Math.min(
    softLimit("Max processes"),
    numberIn("/proc/sys/kernel/pid_max"),
    numberIn("/proc/sys/kernel/threads-max"),
    numberIn("/sys/fs/cgroup/pids.max"),
  );
  const sessions = Math.min(asked.sessions, Math.floor((descriptors - AGENT_DESCRIPTORS) / 4));
  // A connection for each session, two descriptors for each lock and a third while it is claimed.
  const byDescriptors = Math.floor((descriptors - AGENT_DESCRIPTORS - sessions) / 2);
  const byProcesses = processes - OTHER_PROCESSES - 2 * sessions;
  const locks = Math.min(asked.locks, byDescriptors, byProcesses);
  if (sessions < asked.sessions || locks < asked.locks) {
    t.diagnostic(
      `scaled down to ${sessions} sessions and ${locks} locks: this machine has ` +
        `${descriptors} open files a process and ${processes} processes`,
    );
  }
  return { sessions, locks };
}

function softLimit(name: string): number {
  const limits = readFileSync("/proc/self/limits", "latin1");
  const soft = new RegExp(`^${name} +(\\S+) +(\\S+)`, "m").exec(limits)?.[2];
  return soft === undefined || soft === "unlimited" ? Infinity : Number(soft);
}

function numberIn(path: string): number {
  try {
    const text = readFileSync(path, "latin1").trim();
    return text === "max" ? Infinity : Number(text);
  } catch {
    return Infinity;
  }
}
