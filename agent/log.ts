/**
 * The agent's log: one JSON line an event, on stderr.
 *
 * Nothing secret is ever passed in: events carry names, numbers and paths.
 *
 * @module
 */

import { writeSync } from "node:fs";
import process from "node:process";

/** Writes events. */
export type Log = (event: string, facts?: Record<string, unknown>) => void;

/**
 * A log that writes to stderr, with the time in each line.
 *
 * Lines are written a turn later, so that no answer waits for them, and at the latest when the
 * process ends. A reader that is gone or too slow costs lines, never the agent.
 *
 * @param level `quiet` writes nothing.
 */
export function createLog(level: "normal" | "quiet"): Log {
  if (level === "quiet") return () => {};
  let unwritten = "";
  const write = () => {
    const lines = unwritten;
    unwritten = "";
    try {
      if (lines !== "") writeSync(2, lines);
    } catch {
      // EAGAIN or EPIPE: a lock matters more than a line about it.
    }
  };
  process.on("exit", write);
  return (event, facts = {}) => {
    if (unwritten === "") setImmediate(write);
    unwritten += JSON.stringify({ time: new Date().toISOString(), event, ...facts }) + "\n";
  };
}
