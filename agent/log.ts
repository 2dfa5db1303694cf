/**
 * The agent's log: one JSON line an event, on stderr.
 *
 * Nothing secret is ever passed in: events carry names, numbers and paths.
 *
 * @module
 */

import { writeSync } from "node:fs";

/** Writes events. */
export type Log = (event: string, facts?: Record<string, unknown>) => void;

/**
 * A log that writes to stderr, with the time in each line.
 *
 * A reader that is gone or too slow costs lines, never the agent.
 *
 * @param level `quiet` writes nothing.
 */
export function createLog(level: "normal" | "quiet"): Log {
  if (level === "quiet") return () => {};
  return (event, facts = {}) => {
    const line = JSON.stringify({ time: new Date().toISOString(), event, ...facts });
    try {
      writeSync(2, line + "\n");
    } catch {
      // EAGAIN or EPIPE: a lock matters more than a line about it.
    }
  };
}
