/**
 * Errors for people: the message, the way out, and the exit code.
 *
 * @module
 */

import { takeoverHint } from "../../protocol/takeover_outcome.ts";
import { CommandError, CommandNotEndedError, CommandTimeoutError } from "../command_errors.ts";
import {
  AgentError,
  AgentMissingError,
  ConnectError,
  HostKeyError,
  LockContendedError,
  LockLostError,
} from "../errors.ts";
import { EXIT, UsageError } from "./exit_codes.ts";

/** An error for people. */
export interface Explanation {
  /** What was tried, on what, and what stood in the way. */
  message: string;
  /** The way out, where there is one. */
  hint?: string | undefined;
  /** The exit code. */
  exitCode: number;
}

/**
 * Explains an error.
 *
 * @param error What was thrown.
 * @param subcommand By which subcommand.
 */
export function explain(error: unknown, subcommand: string | undefined): Explanation {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof LockContendedError) {
    return { message, hint: hintFor(error), exitCode: EXIT.contended };
  }
  if (error instanceof LockLostError) {
    const hint = subcommand === "run"
      ? "the command was ended; what it did last was not protected by the lock"
      : "what you did last on the host was not protected by the lock";
    return { message, hint, exitCode: EXIT.lost };
  }
  if (error instanceof HostKeyError) return explainHostKey(error);
  if (error instanceof ConnectError) {
    return { message, hint: CONNECT_HINTS[error.kind], exitCode: EXIT.connection };
  }
  if (error instanceof AgentMissingError) {
    const hint = "install sshlock-agent on the host, or bash and flock(1) for the shell way";
    return { message, hint, exitCode: EXIT.failure };
  }
  if (error instanceof AgentError) return explainAgent(error);
  if (error instanceof CommandTimeoutError) return { message, exitCode: EXIT.contended };
  if (error instanceof UsageError) {
    return { message, hint: error.hint, exitCode: EXIT.failure };
  }
  if (error instanceof CommandNotEndedError) {
    const hint = "end it on the host by its pid; the lock no longer protects what it does";
    return { message, hint, exitCode: explain(error.cause, subcommand).exitCode };
  }
  if (error instanceof CommandError) {
    const hint = "the host did not tell how it ended: it may still run";
    return { message, hint, exitCode: EXIT.connection };
  }
  return { message, exitCode: EXIT.failure };
}

function hintFor({ takeover, waitedMs }: LockContendedError): string {
  if (takeover !== undefined) return takeoverHint(takeover);
  const wait = waitedMs > 0 ? "wait longer with -w" : "wait for it with -w 30s";
  return `${wait}, or ask for it with --takeover REASON`;
}

const CONNECT_HINTS: Partial<Record<ConnectError["kind"], string>> = {
  "authentication": "check the user, and the key given with -i",
  "refused": "is sshd running there, and is -p right?",
  "timeout": "is the host up, and does a firewall let you through?",
  "name-not-found": "check the spelling of the host",
  "protocol": "does an SSH server listen on that port?",
};

function explainHostKey({ message, problem, fingerprint }: HostKeyError): Explanation {
  const hint = problem === "changed"
    ? "do not connect before you know why: someone may be in between"
    : `if that is the right key, add --fingerprint ${fingerprint}`;
  return { message, hint, exitCode: EXIT.connection };
}

function explainAgent({ message, code }: AgentError): Explanation {
  if (code === "lock-file") {
    const hint = "sshlock-agent doctor on the host says what is wrong with it";
    return { message, hint, exitCode: EXIT.lockFile };
  }
  if (code === "link-closed" || code === "silence") {
    return { message, hint: "does the agent still run there?", exitCode: EXIT.connection };
  }
  return { message, exitCode: EXIT.failure };
}
