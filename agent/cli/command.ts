/**
 * The command of `run`: how it is started, how signals come to it, and how it ends with its lock.
 *
 * It stays in the process group of `run`, as with flock(1): so it is in the foreground of the
 * terminal when `run` is, ^C and ^Z come to both at once, `fg` resumes both, and a shell's pipeline
 * is one job. timeout(1) makes a group of its own instead, and its command can no longer read the
 * terminal. A group of its own in the foreground (tcsetpgrp(3)) would leave `run` outside: the shell
 * would not see that the command was stopped. But the group that `run` is in is also that of its
 * neighbours in the pipeline, and of the script that called it. So at a loss it is not the group that
 * gets TERM, but each process that the command has started, whatever group it is in by now.
 *
 * @module
 */

import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import process from "node:process";
import { GRACE_MS } from "../../protocol/limits.ts";
import {
  describeMs,
  type LossReason,
  type LostParams,
  type TakeoverNotice,
} from "../../protocol/messages.ts";
import type { HeldLock } from "../agent_claim.ts";
import { environmentUnder } from "../nesting.ts";
import { printError } from "../output.ts";
import { userName } from "../users.ts";
import { EXIT } from "./exit_codes.ts";
import { commandLineFor, type Inheritance, stdioFor } from "./inherited.ts";

/** Signals that are the command's to handle. */
const PASSED_ON = ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"] as const;

/** The terminal sends these to the command itself; anybody else to `run` alone. */
const FROM_TERMINAL = ["SIGINT", "SIGQUIT"] as const;

/** After these losses an agent ends the command's processes; a second TERM would tell them to hurry. */
const ENDED_BY_AGENT: readonly LossReason[] = [
  "broken",
  "taken-over",
  "lock-file-replaced",
  "holder-failed",
];

/**
 * Runs the command to its end, or until the lock is lost and all that it has started is gone.
 *
 * @param lock The lock it runs under.
 * @param name The name of the lock.
 * @param command The command and its arguments.
 * @param inheritance What it inherits.
 * @returns Its exit code, 128 + N after signal N, or one of `EXIT`.
 */
export async function runCommand(
  lock: HeldLock,
  name: string,
  command: string[],
  inheritance: Inheritance,
): Promise<number> {
  const [program, ...args] = commandLineFor(inheritance, command);
  // Before the command starts: from its first moment on, its signals are its own.
  const passing = passSignals(inheritance.ignored);
  const { token, owner, session, run } = lock;
  const child = spawn(program!, args, {
    stdio: stdioFor(inheritance),
    env: environmentUnder({ name, token, owner, session, run }, process.env),
  });
  passing.to(child);
  if (child.pid !== undefined) lock.started(child.pid);
  lock.onTakeover = tellTakeover;
  let ended: Promise<void> | undefined;
  lock.onLost = (loss) => ended ??= endForLoss(lock, child, loss);
  try {
    const code = await exitCodeOf(child, command[0]!);
    if (ended === undefined) return code;
    await ended;
    return EXIT.lost;
  } finally {
    passing.stop();
  }
}

/** The command is not told: only its author knows what it could leave off. */
function tellTakeover({ name, by, byUid, reason, deadlineMs, forced }: TakeoverNotice): void {
  const user = userName(byUid) ?? `uid ${byUid}`;
  const then = forced ? `is ended in ${describeMs(deadlineMs)}` : "goes on";
  printError(`Asked for "${name}" by ${by} (${user}): ${reason}; the command ${then}`);
}

/** Not before all is gone: who is told 93 may take it that nothing acts under the lost lock. */
async function endForLoss(
  lock: HeldLock,
  child: ChildProcess,
  { name, reason, detail }: LostParams,
): Promise<void> {
  printError(`Lost lock "${name}": ${detail}; ending the command`);
  try {
    const { endCommand } = await import("../end_command.ts");
    const isEnded = lock.run === undefined && ENDED_BY_AGENT.includes(reason);
    await endCommand(lock, isEnded ? "after-grace" : "now", GRACE_MS);
  } catch {
    // Without /proc the command itself is all that is known.
    sendTo(child, "SIGTERM");
    await Promise.race([exited(child), new Promise((resolve) => setTimeout(resolve, GRACE_MS))]);
    sendTo(child, "SIGKILL");
  }
}

function exited(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null) return resolve();
    child.once("exit", () => resolve());
  });
}

function exitCodeOf(child: ChildProcess, program: string): Promise<number> {
  return new Promise((resolve) => {
    child.on("exit", (code, signal) => resolve(code ?? 128 + constants.signals[signal!]));
    child.on("error", (error: NodeJS.ErrnoException) => {
      if (child.pid !== undefined) return;
      const isMissing = error.code === "ENOENT";
      const state = isMissing ? "no such command" : error.message;
      printError(`Cannot run ${program}: ${state}`);
      resolve(isMissing ? EXIT.notFound : EXIT.notExecutable);
    });
  });
}

/** A signal that is ignored here stays so: it is not to reach the command either. */
function passSignals(
  ignored: NodeJS.Signals[],
): { to(child: ChildProcess): void; stop(): void } {
  let receiver: ChildProcess | undefined;
  const early: NodeJS.Signals[] = [];
  const passOn = (signal: NodeJS.Signals) => {
    if (receiver === undefined) early.push(signal);
    else sendTo(receiver, signal);
  };
  const passUnlessTyped = (signal: NodeJS.Signals) => {
    if (!isInForeground()) passOn(signal);
  };
  const heard = <Name extends NodeJS.Signals>(signals: readonly Name[]) =>
    signals.filter((signal) => !ignored.includes(signal));
  for (const signal of heard(PASSED_ON)) process.on(signal, passOn);
  for (const signal of heard(FROM_TERMINAL)) process.on(signal, passUnlessTyped);
  return {
    to(child) {
      receiver = child;
      for (const signal of early) sendTo(child, signal);
    },
    stop() {
      for (const signal of heard(PASSED_ON)) process.off(signal, passOn);
      for (const signal of heard(FROM_TERMINAL)) process.off(signal, passUnlessTyped);
    },
  };
}

/**
 * Whether this process is in the foreground of its terminal, so that the terminal's keys reach the
 * command as well. No signal tells who sent it.
 *
 * @see proc_pid_stat(5), tcgetpgrp(3)
 */
function isInForeground(): boolean {
  try {
    const text = readFileSync("/proc/self/stat", "latin1");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    const [group, foregroundGroup] = [fields[2], fields[5]];
    return group === foregroundGroup;
  } catch {
    return true;
  }
}

/** Not by `child.kill`: Deno takes a signal that was sent for the one that the process died of. */
function sendTo(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(child.pid, signal);
  } catch {
    // It has just ended.
  }
}
