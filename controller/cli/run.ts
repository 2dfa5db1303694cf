/**
 * `sshlock run`: a command on a host, under a lock of that host.
 *
 * @module
 */

import { constants } from "node:os";
import process from "node:process";

import { describeHolder, describeMs } from "../../protocol/messages.ts";
import { connect } from "../connect.ts";
import type { ExecResult } from "../exec.ts";
import type { Lock } from "../lock.ts";
import { Command, commandOf } from "../quote.ts";
import type { Session } from "../session.ts";
import { parseDuration } from "./duration.ts";
import { UsageError } from "./exit_codes.ts";
import {
  type ClaimArguments,
  type ConnectArguments,
  connectOptionsOf,
  takeoverOptionsOf,
  targetOf,
  waitMsOf,
} from "./options.ts";
import { passSignalsOn } from "./pass_signals_on.ts";
import { passStopsOn } from "./pass_stops_on.ts";
import { passToStderr, passToStdout, printNote } from "./output.ts";
import { watchStopSignals } from "./stop_signals.ts";

/** What was written after `run`. */
export interface RunArguments extends ConnectArguments, ClaimArguments {
  /** The lock. */
  name: string;
  timeout?: string | undefined;
}

/**
 * Runs a command on a host under a lock.
 *
 * @param args What was written.
 * @param words The command, word by word.
 * @returns The command's exit code; 128 + N where signal N ended it.
 */
export async function runUnderLock(args: RunArguments, words: string[]): Promise<number> {
  if (words.length === 0) {
    throw new UsageError(
      "Cannot run: no command was given",
      "sshlock run HOST NAME -- COMMAND [ARGUMENT…]",
    );
  }
  const waitMs = waitMsOf(args);
  takeoverOptionsOf(args);
  const target = targetOf(args);
  const options = connectOptionsOf(args);
  const timeoutMs = args.timeout === undefined
    ? undefined
    : parseDuration(args.timeout, "--timeout");
  await using stop = watchStopSignals();
  const { signal } = stop;
  await using session = await connect(target, { ...options, signal });
  // Closing the session releases it, and does not wait for an agent that is gone.
  const lock = await claim(session, args, waitMs, signal);
  const atEnd: (() => void)[] = [];
  try {
    const result = await session.exec(commandUnder(lock, options.owner, words), {
      stdin: process.stdin,
      encoding: "buffer",
      check: false,
      onStdout: passToStdout,
      onStderr: passToStderr,
      timeoutMs,
      signal: lock.signal,
      onStart: (command) => atEnd.push(passSignalsOn(stop, command), passStopsOn(lock, command)),
    });
    return exitCodeOf(result);
  } finally {
    for (const end of atEnd) end();
    // Before anything else that may have gone wrong at the same time.
    lock.signal.throwIfAborted();
  }
}

/**
 * Claims the lock; says so where it has to be waited for, and where it was not simply free.
 *
 * @param session The session.
 * @param args What was written.
 * @param waitMs How long to wait, in milliseconds; `undefined`: as long as a takeover takes.
 * @param signal Gives up.
 */
export async function claim(
  session: Session,
  args: ClaimArguments & { name: string },
  waitMs: number | undefined,
  signal: AbortSignal,
): Promise<Lock> {
  const { name, shared, why } = args;
  const rest = takeoverOptionsOf(args);
  let hasSaid = false;
  const lock = await session.claim(name, {
    waitMs,
    shared,
    purpose: why,
    ...rest,
    signal,
    onTakeover: ({ by, reason, deadlineMs, forced }) => {
      const end = forced ? `; this session is ended in ${describeMs(deadlineMs)}` : "";
      printNote(`${by} asks for "${name}" on ${session.host}: ${reason}${end}`);
    },
    onQueued: ({ holder }) => {
      if (hasSaid) return;
      hasSaid = true;
      const what = rest.takeover === undefined ? "waiting" : "asking";
      printNote(`${what} for "${name}" on ${session.host}: ${describeHolder(holder)}`);
    },
  });
  if (lock.takenFrom.length > 0) printNote(`taken over from ${lock.takenFrom.join(", ")}`);
  if (lock.unparked) printNote(`"${name}" had stayed reserved for you`);
  return lock;
}

/** As sshlock-agent run does it on the host itself: the command can fence what it writes elsewhere. */
function commandUnder(
  { name, token }: Lock,
  owner: string | undefined,
  words: string[],
): Command {
  const variables = [
    `SSHLOCK_NAME=${name}`,
    ...(token === undefined ? [] : [`SSHLOCK_TOKEN=${token}`]),
    ...(owner === undefined ? [] : [`SSHLOCK_OWNER=${owner}`]),
  ];
  // env(1), because not each login shell knows assignments before a command.
  const text = commandOf(["exec", "env", ...variables, ...words]).reveal();
  return new Command(text, commandOf(words).shown);
}

function exitCodeOf({ exitCode, signal }: ExecResult | ExecResult<Uint8Array>): number {
  if (exitCode !== null) return exitCode;
  const number = constants.signals[signal as NodeJS.Signals];
  return number === undefined ? 255 : 128 + number;
}
