/**
 * How `run` ends its command and all that the command has started, when the lock is lost.
 *
 * @module
 */

import process from "node:process";
import type { HeldLock } from "./agent_claim.ts";
import { clearAlone } from "./clear_alone.ts";
import { SESSION_VARIABLE } from "./leftovers.ts";
import { readStat } from "./proc.ts";

/**
 * Ends the processes below this one and those that have the session's mark, and waits until they are
 * gone.
 *
 * @param lock The lock that was lost.
 * @param when `now`: TERM, and KILL after the grace. `after-grace`: the agent does that; what is left
 * when the grace is over gets KILL.
 * @param graceMs The grace, in milliseconds.
 */
export async function endCommand(
  lock: HeldLock,
  when: "now" | "after-grace",
  graceMs: number,
): Promise<void> {
  const marks = {
    root: { pid: process.pid, startTime: readStat(process.pid)?.startTime ?? 0 },
    uid: process.getuid!(),
    variable: { name: SESSION_VARIABLE, value: lock.session },
  };
  const clear = (policy: "kill" | "drain", graceMs: number) =>
    clearAlone({ marks, root: undefined, policy, graceMs }, () => lock.spared);
  if (when === "now") return await clear("kill", graceMs);
  let isGone = false;
  const gone = clear("drain", graceMs).then(() => isGone = true);
  await Promise.race([gone, new Promise((resolve) => setTimeout(resolve, graceMs))]);
  if (!isGone) await clear("kill", 0);
}
