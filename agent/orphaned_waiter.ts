/**
 * Holders that still wait in the kernel's queue for an agent that is dead.
 *
 * They have no lock and would end as soon as they got it, as nobody hears their byte. Behind a lock
 * that is held for long they would pile up, some with each agent that dies.
 *
 * @module
 */

import { AGENT_FD, LOCK_FD } from "./holder/order.ts";
import { isOwnHolder } from "./holder_search.ts";
import { closeDescriptor, copyDescriptor, openPidfd, pollDescriptors } from "./libc.ts";
import { lockOn } from "./lock_file_copy.ts";
import { type ProcessId, readStat } from "./proc.ts";
import { sendSignals } from "./signals.ts";

/** poll(2): nobody has the other end open any more. It comes unasked. */
const POLLHUP = 0x10;

/**
 * Ends a process if it is a holder of ours that waits for a dead agent: same user, the holder's
 * program, no lock on descriptor 999, and nobody at the other end of its tie. Of such a one nothing
 * can become but its end.
 *
 * @param pid The process.
 * @returns Whether it was, and was ended.
 */
export function endOrphanedWaiter(pid: number): boolean {
  const stat = readStat(pid);
  if (stat === undefined || !isOwnHolder(pid)) return false;
  if (lockOn(pid, LOCK_FD) !== undefined || !isTieCut(stat)) return false;
  return sendSignals(stat, ["SIGKILL"]) === "sent";
}

/** Asked of the very socket: a living agent has its other end open, stopped or not. */
function isTieCut({ pid, startTime }: ProcessId): boolean {
  const pidfd = openPidfd(pid);
  if (pidfd === undefined) return false;
  try {
    if (readStat(pid)?.startTime !== startTime) return false;
    const fd = copyDescriptor(pidfd, AGENT_FD);
    try {
      const entry = new Int32Array([fd, 0]);
      return pollDescriptors(entry) > 0 && (entry[1]! >>> 16 & POLLHUP) !== 0;
    } finally {
      closeDescriptor(fd);
    }
  } catch {
    return false;
  } finally {
    closeDescriptor(pidfd);
  }
}
