/**
 * ^Z: what runs on the host stops with us, and whoever pressed it is told what that costs.
 *
 * @module
 */

import process from "node:process";

import { describeMs } from "../../protocol/messages.ts";
import type { RunningCommand } from "../exec.ts";
import type { Lock } from "../lock.ts";
import { printNote } from "./output.ts";

/**
 * From now on a stop from the terminal (TSTP) stops the command first, and `fg` or `bg` lets it go on.
 *
 * The command gets STOP: below sshd it is in an orphaned process group, where the kernel ignores TSTP.
 * Our heartbeats stop as well, so the lock is lost unless we go on soon; that is said before.
 *
 * @param lock The lock that is held.
 * @param command The command under it; absent: none runs.
 * @returns A function to be called at its end.
 * @see setpgid(2), signal(7)
 */
export function passStopsOn(lock: Lock, command?: RunningCommand): () => void {
  const goOn = () => void command?.signal("CONT");
  const stop = async () => {
    process.off("SIGTSTP", stop);
    await command?.signal("STOP");
    process.once("SIGCONT", () => process.on("SIGTSTP", stop));
    process.once("SIGCONT", goOn);
    printNote(describeStop(lock, command !== undefined));
    process.kill(process.pid, "SIGSTOP");
  };
  process.on("SIGTSTP", stop);
  return () => process.off("SIGTSTP", stop);
}

function describeStop({ name, silenceLeftMs }: Lock, hasCommand: boolean): string {
  const what = hasCommand ? "stopped, and the command with it" : "stopped";
  if (silenceLeftMs === undefined) return what;
  const left = describeMs(Math.floor(silenceLeftMs / 1_000) * 1_000);
  return `${what}; "${name}" is lost unless it goes on within ${left}`;
}
