/**
 * Signals to processes that cannot be mistaken for later ones with the same pid.
 *
 * @module
 */

import { constants } from "node:os";
import { closeDescriptor, openPidfd, signalPidfd } from "./libc.ts";
import { type ProcessId, readStat } from "./proc.ts";

/** How sending a signal came out. */
export type SignalOutcome = "sent" | "gone" | "denied";

/**
 * Sends signals, in order, to exactly this process.
 *
 * The pidfd is opened first and the start time compared after: from then on neither can change.
 *
 * @param target The process.
 * @param signals Names, such as `SIGTERM`.
 */
export function sendSignals(target: ProcessId, signals: NodeJS.Signals[]): SignalOutcome {
  const pidfd = openPidfd(target.pid);
  if (pidfd === undefined) return "gone";
  try {
    if (readStat(target.pid)?.startTime !== target.startTime) return "gone";
    return sendSignalsBy(pidfd, signals);
  } finally {
    closeDescriptor(pidfd);
  }
}

/**
 * Sends signals, in order, to the process that a pidfd stands for.
 *
 * @param pidfd The pidfd.
 * @param signals Names, such as `SIGTERM`.
 */
export function sendSignalsBy(pidfd: number, signals: NodeJS.Signals[]): SignalOutcome {
  try {
    const sent = signals.every((signal) => signalPidfd(pidfd, constants.signals[signal]));
    return sent ? "sent" : "gone";
  } catch {
    return "denied";
  }
}
