/**
 * `run`: a command under a lock, as flock(1) does it.
 *
 * @module
 */

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { constants, hostname } from "node:os";
import process from "node:process";
import {
  type ClaimParams,
  type ContendedFacts,
  describeHolder,
  describeMs,
  type LostParams,
} from "../../protocol/messages.ts";
import { MAX_WAIT_MS } from "../../protocol/limits.ts";
import { WireError } from "../../protocol/wire_error.ts";
import type { HeldLock } from "../agent_claim.ts";
import { printError } from "../output.ts";
import { type AgentPaths, clientSockets, type PathOptions, resolvePaths } from "../paths.ts";
import { userName } from "../users.ts";
import { parseDuration } from "./durations.ts";
import { CommandError, EXIT } from "./exit_codes.ts";
import { checkName } from "./status.ts";

/** Time between TERM and KILL for a command whose lock was lost, in milliseconds. */
const GRACE_MS = 5_000;

/** Signals that end this program are the command's to handle. */
const PASSED_ON = ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"] as const;

/** The terminal sends these to the command itself; here they only must not end the wait for it. */
const IGNORED = ["SIGINT", "SIGQUIT"] as const;

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
}

/**
 * Runs a command while the lock is held, and gives the lock back when it has ended.
 *
 * The lock is claimed from the agent; where none runs, this process takes it itself, and the kernel
 * frees it with this process.
 *
 * @param options Where agent and locks are.
 * @param run What to run under which lock.
 * @returns The command's own exit code, 128 + N after signal N, or one of `EXIT`.
 */
export async function runUnderLock(options: PathOptions, run: RunOptions): Promise<number> {
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
    return await runCommand(lock, run);
  } finally {
    await lock.release();
  }
}

async function takeLock(options: PathOptions, run: RunOptions): Promise<HeldLock> {
  const { name, shared, purpose } = run;
  const waitMs = run.wait === undefined ? MAX_WAIT_MS : parseDuration(run.wait, "--wait");
  const uid = process.getuid!();
  const owner = run.owner ?? `${userName(uid) ?? uid}@${hostname()}/${process.pid}`;
  const claim = { name, shared, waitMs, purpose };
  const sockets = clientSockets(options).filter((path) => existsSync(path));
  return await claimFromRunningAgent(sockets, owner, claim) ??
    await claimAlone(resolvePaths(options), owner, claim);
}

/** Without a socket there is no agent, and the program's network part need not be loaded. */
async function claimFromRunningAgent(
  sockets: string[],
  owner: string,
  claim: ClaimParams,
): Promise<HeldLock | undefined> {
  if (sockets.length === 0) return undefined;
  const { AgentClient, connectToAgent } = await import("../client.ts");
  const connection = await connectToAgent(sockets);
  if (connection.kind === "absent") return undefined;
  const { claimFromAgent } = await import("../agent_claim.ts");
  return await claimFromAgent(new AgentClient(connection.socket), sockets, owner, claim);
}

async function claimAlone(
  paths: AgentPaths,
  owner: string,
  claim: ClaimParams,
): Promise<HeldLock> {
  const { claimHere } = await import("../local_claim.ts");
  return await claimHere(paths, owner, claim);
}

function refuse({ name, conflictExitCode }: RunOptions, error: WireError): number {
  const { holder, waitedMs } = error.facts as unknown as ContendedFacts;
  const waited = waitedMs > 0 ? ` after ${describeMs(waitedMs)}` : "";
  printError(`Cannot claim "${name}"${waited}: ${describeHolder(holder)}`);
  return conflictExitCode;
}

async function runCommand(lock: HeldLock, run: RunOptions): Promise<number> {
  const [program, ...args] = run.command;
  // Before the command starts: from its first moment on, its signals are its own.
  const passing = passSignals();
  const child = spawn(program!, args, {
    stdio: "inherit",
    env: {
      ...process.env,
      SSHLOCK_NAME: run.name,
      SSHLOCK_TOKEN: String(lock.token),
      SSHLOCK_OWNER: lock.owner,
    },
  });
  passing.to(child);
  let lost: LostParams | undefined;
  lock.onLost = (loss) => {
    lost ??= loss;
    endForLoss(child, loss);
  };
  try {
    const code = await exitCodeOf(child, program!);
    return lost === undefined ? code : EXIT.lost;
  } finally {
    passing.stop();
  }
}

function endForLoss(child: ChildProcess, { name, detail }: LostParams): void {
  printError(`Lost lock "${name}": ${detail}; ending the command`);
  sendTo(child, "SIGTERM");
  setTimeout(() => sendTo(child, "SIGKILL"), GRACE_MS).unref();
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

function passSignals(): { to(child: ChildProcess): void; stop(): void } {
  let receiver: ChildProcess | undefined;
  const early: NodeJS.Signals[] = [];
  const passOn = (signal: NodeJS.Signals) => {
    if (receiver === undefined) early.push(signal);
    else sendTo(receiver, signal);
  };
  const ignore = () => {};
  for (const signal of PASSED_ON) process.on(signal, passOn);
  for (const signal of IGNORED) process.on(signal, ignore);
  return {
    to(child) {
      receiver = child;
      for (const signal of early) sendTo(child, signal);
    },
    stop() {
      for (const signal of PASSED_ON) process.off(signal, passOn);
      for (const signal of IGNORED) process.off(signal, ignore);
    },
  };
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

function isExitCode(code: number): boolean {
  return Number.isInteger(code) && code >= 0 && code <= 255;
}
