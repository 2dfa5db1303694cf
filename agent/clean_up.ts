/**
 * What happens to the processes of a session that has ended, before its locks go to anyone else.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import { crashPoint } from "./crash_points.ts";
import type { ExitWatch } from "./exit_watch.ts";
import type { Leftover, OnStarted } from "./leftovers.ts";
import { isAlive, type ProcessId, readStat } from "./proc.ts";
import { sendSignals, sendSignalsBy } from "./signals.ts";

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
 * First pause before another search where nothing was found but what does not show yet whose it is, in
 * milliseconds: that is becoming another program, and soon shows. Somebody always does so on a busy host.
 * It doubles each time, for one whose program's disk does not answer.
 */
const UNKNOWN_AGAIN_MS = 5;

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

/**
 * Searches in a row that find what the one before did not, the first of all among them: from then on
 * it makes processes faster than searches end them.
 */
const FRESH_SEARCHES = 3;

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
  /** Tells of those that are started within the next milliseconds, each at once. */
  follow: (onStarted: OnStarted) => Promise<void>;
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
  let fresh = 0;
  let unknownMs = UNKNOWN_AGAIN_MS / 2;
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
    forgetOthers(warned, leftovers);
    empty = leftovers.length === 0 ? empty + 1 : 0;
    if (options.policy() === "kill") {
      const since = killingSince ??= performance.now();
      const end = (leftover: Leftover, pidfd?: number) =>
        !leftover.isShared && endProcess(leftover, isOver(since), warned, pidfd);
      fresh = found.map((leftover) => end(leftover)).includes(true) ? fresh + 1 : 0;
      if (fresh >= FRESH_SEARCHES) await options.follow(end);
      // To be told comes first; TERM and KILL are for who does not hear.
      const leavingMs = Math.max(options.graceMs, MIN_LEAVING_MS);
      const stayedMs = performance.now() - since;
      for (const process of staying.filter(({ isShared }) => !isShared)) {
        if (stayedMs >= leavingMs) endProcess(process, stayedMs >= 2 * leavingMs, warned);
      }
    }
    crashPoint("clean-up.signalled");
    const known = leftovers.filter(({ isUnknown }) => isUnknown !== true);
    const graceLeftMs = (killingSince ?? startedAt) + options.graceMs - performance.now();
    unknownMs = known.length > 0 ? UNKNOWN_AGAIN_MS / 2 : Math.min(2 * unknownMs, SEARCH_AGAIN_MS);
    const againMs = known.length > 0 ? SEARCH_AGAIN_MS : unknownMs;
    const gone = options.exits.untilGone(
      known.length > 0 ? known : leftovers,
      graceLeftMs > 0 ? Math.min(againMs, graceLeftMs) : againMs,
    );
    await (staying.length === 0 ? gone : Promise.race([gone, left]));
  }
}

function livingProcess({ pid, startTime }: ProcessId, isShared: boolean): Leftover[] {
  const stat = isAlive({ pid, startTime }) ? readStat(pid) : undefined;
  if (stat === undefined) return [];
  return [{ pid, startTime, comm: stat.comm, state: stat.state, isShared }];
}

/** Where processes are started over and over, those that are gone would only fill the memory. */
function forgetOthers(keys: Set<string>, processes: ProcessId[]): void {
  const kept = new Set(processes.map(keyOf));
  for (const key of keys) {
    if (!kept.has(key)) keys.delete(key);
  }
}

function keyOf({ pid, startTime }: ProcessId): string {
  return `${pid}/${startTime}`;
}

/**
 * TERM once, with CONT so that a stopped process hears it; KILL at every search after the grace.
 *
 * @param pidfd Stands for the process, where the caller has one.
 * @returns Whether it is the first time.
 */
function endProcess(
  leftover: Leftover,
  isOverdue: boolean,
  warned: Set<string>,
  pidfd?: number,
): boolean {
  const send = (signals: NodeJS.Signals[]) =>
    pidfd === undefined ? sendSignals(leftover, signals) : sendSignalsBy(pidfd, signals);
  const isFresh = !warned.has(keyOf(leftover));
  warned.add(keyOf(leftover));
  if (isOverdue) send(["SIGKILL"]);
  else if (isFresh) send(["SIGTERM", "SIGCONT"]);
  return isFresh;
}
