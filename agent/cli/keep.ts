/**
 * `keep`: clears away what a `run` without an agent has left when it was killed. Its end frees the
 * lock, as it has inherited the last descriptor that the holder is tied to.
 *
 * Started by `run` alone; see `agent/keeper.ts`.
 *
 * @module
 */

import process from "node:process";
import { GRACE_MS } from "../../protocol/limits.ts";
import { clearAlone } from "../clear_alone.ts";
import { SESSION_VARIABLE } from "../leftovers.ts";
import { isAlive, type ProcessId } from "../proc.ts";
import { CommandError, EXIT } from "./exit_codes.ts";

/** Pause between two looks whether `run` is gone, in milliseconds. */
const LOOK_MS = 10;

/** Pause before a search that failed is repeated, in milliseconds. */
const AGAIN_MS = 500;

/** The runtime has its own handlers; all of these would end the lock before its processes. */
const IGNORED = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"] as const;

/**
 * Ends what is left of a command, by TERM and after a grace by KILL, and waits until it is gone.
 *
 * @param args Session id, pid and start time of `run`, and those of the command if it was started.
 * @throws {CommandError} Called by hand.
 */
export async function keepLock(args: string[]): Promise<number> {
  const [session = "", ...numbers] = args;
  const [runPid, runStart, pid, startTime] = numbers.map(Number);
  if (session === "" || ![runPid, runStart].every(Number.isInteger)) {
    throw new CommandError("Cannot keep a lock: only sshlock-agent run starts this");
  }
  for (const signal of IGNORED) process.on(signal, () => {});
  const run = { pid: runPid!, startTime: runStart! };
  while (isAlive(run)) await pause(LOOK_MS);
  const root = pid === undefined ? run : { pid, startTime: startTime ?? 0 };
  await clearForSure(root, session);
  return EXIT.ok;
}

/** A search that fails proves nothing about processes, so it is repeated until one succeeds. */
async function clearForSure(root: ProcessId, session: string): Promise<void> {
  const variable = { name: SESSION_VARIABLE, value: session };
  for (;;) {
    try {
      const marks = { root, uid: process.getuid!(), variable };
      const how = { marks, root, policy: "kill", graceMs: GRACE_MS } as const;
      return await clearAlone(how, () => new Set());
    } catch {
      await pause(AGAIN_MS);
    }
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
