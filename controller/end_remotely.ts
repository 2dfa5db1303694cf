/**
 * Ends a command on the host: TERM, then KILL, until nothing of it lives, then the channel.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";

import type { ProcessFacts } from "../protocol/messages.ts";
import { within } from "./deadline.ts";
import type { EndableProcess } from "./endable_process.ts";

/**
 * Time for the channel to close after the last process is gone, or after KILL where nobody can tell, in
 * milliseconds.
 */
const LAST_WORDS_MS = 1_000;

/** Time for all to be gone after KILL, in milliseconds; what is still there then cannot be ended. */
const AFTER_KILL_MS = 5_000;

/** Pauses between two looks at what lives, in milliseconds: each look reads all of /proc on the host. */
const FIRST_PAUSE_MS = 10;
const LONGEST_PAUSE_MS = 250;

/** Looks that must find nothing in a row: one alone can miss a process that is forked meanwhile. */
const EMPTY_LOOKS = 2;

/** New processes that are sent TERM at one look; KILL gets all of them in any case. */
const MAX_NEW = 20;

/** How ending a command came out. */
export interface EndReport {
  /** Whether nothing of it is left: the agent found nothing, or without one, its channel closed by itself. */
  isConfirmed: boolean;
  /** What still lives; absent where no agent can tell. */
  processes?: ProcessFacts[] | undefined;
}

/**
 * Ends a command and all that it has started, and waits until it is gone.
 *
 * @param process The command.
 * @param killAfterMs Time between TERM and KILL, in milliseconds.
 */
export async function endRemotely(
  process: EndableProcess,
  killAfterMs: number,
): Promise<EndReport> {
  // What nobody reads any more must not keep the channel from closing.
  process.stdout.resume();
  process.stderr.resume();
  const report = await endProcesses(process, killAfterMs);
  if (await isClosedWithin(process, LAST_WORDS_MS)) return report;
  process.close();
  await isClosedWithin(process, LAST_WORDS_MS);
  return report;
}

async function endProcesses(process: EndableProcess, killAfterMs: number): Promise<EndReport> {
  const { processes } = process;
  const warned = new Set(await processes.signal("TERM", "all"));
  // A stopped process hears TERM only once it goes on.
  await processes.signal("CONT", "all");
  const report = await untilGone(process, killAfterMs, false, async (found) => {
    const fresh = found.filter(({ pid }) => !warned.has(pid)).slice(0, MAX_NEW);
    for (const { pid } of fresh) {
      warned.add(pid);
      await processes.signalOne("TERM", pid);
    }
  });
  if (report.isConfirmed) return report;
  await processes.signal("KILL", "all");
  return await untilGone(process, AFTER_KILL_MS, true, () => processes.signal("KILL", "all"));
}

/** Looks until nothing is there or the time is over. */
async function untilGone(
  process: EndableProcess,
  limitMs: number,
  isLast: boolean,
  onFound: (found: ProcessFacts[]) => Promise<unknown>,
): Promise<EndReport> {
  const endsAt = performance.now() + limitMs;
  let empty = 0;
  for (let pauseMs = FIRST_PAUSE_MS;; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
    const found = await process.processes.list();
    const leftMs = Math.max(0, endsAt - performance.now());
    if (found === undefined) {
      const waitMs = isLast ? Math.min(leftMs, LAST_WORDS_MS) : leftMs;
      return { isConfirmed: await isClosedWithin(process, waitMs) };
    }
    empty = found.length === 0 ? empty + 1 : 0;
    if (empty === EMPTY_LOOKS) return { isConfirmed: true, processes: [] };
    if (leftMs === 0 && found.length > 0) return { isConfirmed: false, processes: found };
    if (found.length > 0) await onFound(found);
    await delay(Math.min(pauseMs, Math.max(1, leftMs)));
  }
}

async function isClosedWithin(process: EndableProcess, ms: number): Promise<boolean> {
  return await within(process.closed, ms) !== undefined;
}
