/**
 * What happens to the processes of a session that has ended, before its locks go to anyone else.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import { crashPoint } from "./crash_points.ts";
import type { ExitWatch } from "./exit_watch.ts";
import type { Leftover } from "./leftovers.ts";
import { isAlive, type ProcessId, readStat } from "./proc.ts";
import { sendSignals } from "./signals.ts";

/** What becomes of a session's leftover processes. */
export type EndPolicy = "kill" | "drain" | "leave";

/**
 * Pause between two looks at processes that are known, in milliseconds: a lock is to be free within
 * 50 ms of its last leftover's death, and two searches of all of /proc come after it. A look is one
 * poll(2), and there are looks only while a session ends.
 */
export const LEFTOVER_LOOK_MS = 3;

/** How long known processes are waited for before new ones are searched for, in milliseconds. */
const SEARCH_AGAIN_MS = 200;

/**
 * Searches that must find nothing in a row: one alone can miss a process that was forked behind the
 * reader's back by one that then ended.
 */
const EMPTY_SEARCHES = 2;

/**
 * The least time that a local client has for each step of leaving, in milliseconds: `run` first waits
 * until what it has started is gone, which takes it two searches as well.
 */
const MIN_LEAVING_MS = 1_000;

/** A local program that was told the loss of its lock, and lives on. */
export interface LeavingClient extends ProcessId {
  /** Resolves when it has closed its connection: with that it says that it acts no more. */
  left: Promise<void>;
  /** Whether it is also the client of another session that goes on: then it is not ended. */
  isShared(): boolean;
}

/** How a session's processes are cleared away. */
export interface CleanUpOptions {
  /** The root, if it is ended too; else it is taken to be gone. */
  root: ProcessId | undefined;
  /** The local program that has to leave, if there is one. */
  client?: LeavingClient;
  /**
   * `kill` ends them, `drain` waits for them. Asked for at each look: somebody may lose patience.
   */
  policy: () => Exclude<EndPolicy, "leave">;
  /** Time between TERM and KILL, in milliseconds. */
  graceMs: number;
  /** Finds them. Two calls in a row, the second after the answer to the first, are two looks. */
  find: () => Promise<Leftover[]>;
  /** Tells when they end. */
  exits: ExitWatch;
  /** Called when what is waited for has changed. */
  onAwaiting: (leftovers: Leftover[]) => void;
}

/**
 * Waits until a session has no processes left, and ends them if it is to.
 *
 * It never gives up: what cannot be ended (state `D`, another user's process without the right to
 * signal it) is waited for, because a lock that is handed over beside it would be no lock.
 *
 * @param options How.
 */
export async function clearLeftovers(options: CleanUpOptions): Promise<void> {
  const startedAt = performance.now();
  let killingSince: number | undefined;
  const isOver = (since: number) => performance.now() - since >= options.graceMs;
  const warned = new Set<string>();
  const { client } = options;
  let hasLeft = client === undefined;
  const left = client?.left.then(() => void (hasLeft = true));
  for (let empty = 0; empty < EMPTY_SEARCHES;) {
    const root = options.root === undefined ? [] : livingProcess(options.root, false);
    for (const process of root) endProcess(process, isOver(startedAt), warned);
    // Each search sees the host as it was after the last one's signals, and after the last one was
    // answered: only then is it a second look. The scan behind it may serve other sessions as well.
    const found = await options.find();
    crashPoint("clean-up.found");
    const staying = client === undefined || hasLeft ? [] : livingProcess(client, client.isShared());
    const leftovers = [...root, ...staying, ...found];
    options.onAwaiting(leftovers);
    empty = leftovers.length === 0 ? empty + 1 : 0;
    if (options.policy() === "kill") {
      killingSince ??= performance.now();
      const ended = found.filter(({ isShared }) => !isShared);
      for (const leftover of ended) endProcess(leftover, isOver(killingSince), warned);
      // To be told comes first; TERM and KILL are for who does not hear.
      const leavingMs = Math.max(options.graceMs, MIN_LEAVING_MS);
      const stayedMs = performance.now() - killingSince;
      for (const process of staying.filter(({ isShared }) => !isShared)) {
        if (stayedMs >= leavingMs) endProcess(process, stayedMs >= 2 * leavingMs, warned);
      }
    }
    crashPoint("clean-up.signalled");
    const graceLeftMs = (killingSince ?? startedAt) + options.graceMs - performance.now();
    const gone = options.exits.untilGone(
      leftovers,
      graceLeftMs > 0 ? Math.min(SEARCH_AGAIN_MS, graceLeftMs) : SEARCH_AGAIN_MS,
    );
    await (staying.length === 0 ? gone : Promise.race([gone, left]));
  }
}

function livingProcess({ pid, startTime }: ProcessId, isShared: boolean): Leftover[] {
  const stat = isAlive({ pid, startTime }) ? readStat(pid) : undefined;
  if (stat === undefined) return [];
  return [{ pid, startTime, comm: stat.comm, state: stat.state, isShared }];
}

/** TERM once, with CONT so that a stopped process hears it; KILL at every search after the grace. */
function endProcess(leftover: Leftover, isOverdue: boolean, warned: Set<string>): void {
  const key = `${leftover.pid}/${leftover.startTime}`;
  if (isOverdue) sendSignals(leftover, ["SIGKILL"]);
  else if (!warned.has(key)) sendSignals(leftover, ["SIGTERM", "SIGCONT"]);
  warned.add(key);
}
