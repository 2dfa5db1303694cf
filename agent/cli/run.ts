/**
 * `run`: a command under a lock, as flock(1) does it.
 *
 * @module
 */

import { type ContendedFacts, describeHolder, describeMs } from "../../protocol/messages.ts";
import { takeoverHint } from "../../protocol/takeover_outcome.ts";
import { WireError } from "../../protocol/wire_error.ts";
import type { HeldLock } from "../agent_claim.ts";
import { printError } from "../output.ts";
import type { PathOptions } from "../paths.ts";
import { runCommand } from "./command.ts";
import { CommandError } from "./exit_codes.ts";
import { readInheritance } from "./inherited.ts";
import { checkName } from "./status.ts";
import { takeLock } from "./take_lock.ts";

/** Options of `run`. */
export interface RunOptions {
  /** The lock. */
  name: string;
  /** The command and its arguments. */
  command: string[];
  /** How long to wait; absent: for ever. */
  wait: string | undefined;
  /** Exit code when contended. */
  conflictExitCode: number;
  /** Whether to share the lock. */
  shared: boolean;
  /** The identity of the claim. */
  owner: string | undefined;
  /** What the lock is for. */
  purpose: string | undefined;
  /** Why whoever has the lock is to let it go; absent: they are not asked. */
  takeover: string | undefined;
  /** The time they are given. */
  takeoverDeadline: string | undefined;
}

/**
 * Runs a command while the lock is held, and gives the lock back when it has ended.
 *
 * The lock is claimed from the agent; where none runs, this process takes it itself. Inside a `run`
 * of the same lock it joins that one.
 *
 * @param options Where agent and locks are.
 * @param run What to run under which lock.
 * @returns The command's own exit code, 128 + N after signal N, or one of `EXIT`.
 */
export async function runUnderLock(options: PathOptions, run: RunOptions): Promise<number> {
  const inheritance = readInheritance();
  checkName(run.name);
  if (!isExitCode(run.conflictExitCode)) {
    throw new CommandError(`Cannot use --conflict-exit-code: it is no number from 0 to 255`);
  }
  let lock: HeldLock;
  try {
    lock = await takeLock(options, run);
  } catch (error) {
    if (error instanceof WireError && error.code === "contended") return refuse(run, error);
    throw error;
  }
  try {
    return await runCommand(lock, run.name, run.command, inheritance);
  } finally {
    await lock.release();
  }
}

function refuse({ name, conflictExitCode }: RunOptions, error: WireError): number {
  const { holder, waitedMs, takeover } = error.facts as unknown as ContendedFacts;
  const hint = takeover === undefined ? undefined : takeoverHint(takeover);
  const waited = waitedMs > 0 ? ` after ${describeMs(waitedMs)}` : "";
  printError(`Cannot claim "${name}"${waited}: ${describeHolder(holder)}`, hint);
  return conflictExitCode;
}

function isExitCode(code: number): boolean {
  return Number.isInteger(code) && code >= 0 && code <= 255;
}
