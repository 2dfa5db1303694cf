/**
 * Passes INT, TERM and HUP on to the command on the host, harder each time.
 *
 * @module
 */

import process from "node:process";

import { KILL_AFTER_MS, type RunningCommand } from "../exec.ts";
import { printNote } from "./output.ts";
import type { StopSignal, StopSignals } from "./stop_signals.ts";

/** Time that a command has after INT before a person is told how to press harder, in milliseconds. */
const PATIENCE_MS = 1_000;

/** What was sent last, and what a person is told then. */
const NOTES: Partial<Record<NodeJS.Signals, string>> = {
  SIGINT: "INT was passed on, and the command still runs; ^C again sends TERM",
  SIGTERM: "sent TERM to the command; ^C again sends KILL",
  SIGKILL: "sent KILL to the command; ^C again leaves without waiting for its end",
};

/**
 * Passes signals on, from now on.
 *
 * INT goes to the command as from a terminal, and the command may go on. A further signal sends TERM,
 * the next KILL; the one after that ends us, as it would any program. TERM and HUP may come when
 * nobody sits there, so KILL follows by itself.
 *
 * @param stop The signals that come here.
 * @param command The command.
 * @returns A function to be called at the end of the command.
 */
export function passSignalsOn(stop: StopSignals, command: RunningCommand): () => void {
  const timers: ReturnType<typeof setTimeout>[] = [];
  let sent: NodeJS.Signals | undefined;
  const send = (name: NodeJS.Signals) => {
    sent = name;
    void command.signal(name);
  };
  stop.passOn((signal) => {
    send(nextAfter(sent, signal));
    if (sent === "SIGINT") timers.push(setTimeout(() => tell(sent), PATIENCE_MS));
    else tell(sent);
    if (signal !== "SIGINT") timers.push(setTimeout(() => send("SIGKILL"), KILL_AFTER_MS));
    if (sent === "SIGKILL") stop.unwatch();
  });
  return () => timers.forEach(clearTimeout);
}

function nextAfter(sent: NodeJS.Signals | undefined, signal: StopSignal): NodeJS.Signals {
  if (sent === undefined) return signal;
  return sent === "SIGINT" || sent === "SIGHUP" ? "SIGTERM" : "SIGKILL";
}

/** Only a person can press a key. */
function tell(sent: NodeJS.Signals | undefined): void {
  const note = sent === undefined ? undefined : NOTES[sent];
  if (note !== undefined && process.stdin.isTTY) printNote(note);
}
