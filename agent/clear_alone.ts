/**
 * The clean-up of one command's processes by a program that is no agent.
 *
 * @module
 */

import { type CleanUpOptions, clearLeftovers, LEFTOVER_LOOK_MS } from "./clean_up.ts";
import { ExitWatch } from "./exit_watch.ts";
import { LeftoverSearch, type SessionMarks } from "./leftovers.ts";
import { loadLibc } from "./libc.ts";

/** What is cleared away, and how. */
export interface ClearAloneOptions extends Pick<CleanUpOptions, "root" | "graceMs"> {
  /** Whether they are ended or waited for. */
  policy: ReturnType<CleanUpOptions["policy"]>;
  /** What the command's processes are known by. */
  marks: SessionMarks;
}

/** Nobody counts descriptors here, and /proc answers as well where one cannot be had. */
const NO_BUDGET = { borrowDescriptor: () => true, returnDescriptor: () => {} };

/**
 * Waits until a command has no processes left, and ends them if it is to; it never gives up.
 *
 * @param options What, and how.
 * @param spared Pids that are no part of the command, asked for at each search.
 */
export async function clearAlone(
  options: ClearAloneOptions,
  spared: () => ReadonlySet<number>,
): Promise<void> {
  await loadLibc();
  const search = new LeftoverSearch(spared);
  await clearLeftovers({
    ...options,
    policy: () => options.policy,
    find: () => search.find(options.marks),
    follow: (onStarted) => search.follow(options.marks, onStarted),
    exits: new ExitWatch(LEFTOVER_LOOK_MS, NO_BUDGET),
    onAwaiting: () => {/* nobody asks */},
  });
}
