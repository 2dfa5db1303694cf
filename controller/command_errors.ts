/**
 * The errors of remote commands. They show a command as it may be shown: secrets are masked in it.
 *
 * @module
 */

import { describeMs, type ProcessFacts } from "../protocol/messages.ts";

/** What is known of a command that did not go well. */
export interface CommandFacts<Output = string | Uint8Array> {
  /** The host. */
  host: string;
  /** The command as it may be shown. */
  command: string;
  /** Its standard output so far; empty where it was streamed. */
  stdout: Output;
  /** Its standard error so far; empty where it was streamed. */
  stderr: Output;
  /** Its exit code; `null` when it was ended by a signal or its end is unknown. */
  exitCode: number | null;
  /** The signal that ended it, such as `SIGTERM`. */
  signal: string | null;
}

/** What the errors of a command have in common. */
export class CommandError extends Error {
  override name = "CommandError";
  /** The host. */
  readonly host: string;
  /** The command as it may be shown. */
  readonly command: string;
  /** Its standard output so far; empty where it was streamed. */
  readonly stdout: string | Uint8Array;
  /** Its standard error so far; empty where it was streamed. */
  readonly stderr: string | Uint8Array;
  /** Its exit code; `null` when it was ended by a signal or its end is unknown. */
  readonly exitCode: number | null;
  /** The signal that ended it, such as `SIGTERM`. */
  readonly signal: string | null;

  /**
   * @param facts What is known of the command.
   * @param state What happened to it, for the message.
   * @param options The cause.
   */
  constructor(facts: CommandFacts, state: string, options?: ErrorOptions) {
    super(`Cannot complete ${quoteShort(facts.command)} on ${facts.host}: ${state}`, options);
    this.host = facts.host;
    this.command = facts.command;
    this.stdout = facts.stdout;
    this.stderr = facts.stderr;
    this.exitCode = facts.exitCode;
    this.signal = facts.signal;
  }
}

/** The command ended with another exit code than 0, or by a signal. */
export class CommandFailedError extends CommandError {
  override name = "CommandFailedError";

  /** @param facts What is known of the command. */
  constructor(facts: CommandFacts) {
    super(facts, `${describeEnd(facts)}${lastLine(facts.stderr)}`);
  }
}

/** The command took too long and was ended. */
export class CommandTimeoutError extends CommandError {
  override name = "CommandTimeoutError";
  /** The time it had, in milliseconds. */
  readonly timeoutMs: number;

  /**
   * @param facts What is known of the command.
   * @param timeoutMs The time it had.
   */
  constructor(facts: CommandFacts, timeoutMs: number) {
    super(facts, `not done within ${describeMs(timeoutMs)}, so it was ended`);
    this.timeoutMs = timeoutMs;
  }
}

/** The command wrote more than the caller wants to hold, and was ended. */
export class OutputLimitError extends CommandError {
  override name = "OutputLimitError";
  /** The limit, in bytes. */
  readonly maxOutputBytes: number;

  /**
   * @param facts What is known of the command.
   * @param maxOutputBytes The limit.
   */
  constructor(facts: CommandFacts, maxOutputBytes: number) {
    super(facts, `it wrote more than ${maxOutputBytes} bytes, so it was ended`);
    this.maxOutputBytes = maxOutputBytes;
  }
}

/** The command was to be ended, and nobody can say that nothing of it runs any more. */
export class CommandNotEndedError extends CommandError {
  override name = "CommandNotEndedError";
  /** What still runs of it on the host; absent where no agent can tell. */
  readonly processes: readonly ProcessFacts[] | undefined;

  /**
   * @param facts What is known of the command.
   * @param processes What still runs of it.
   * @param options Why it was to be ended: what would have been thrown otherwise.
   */
  constructor(
    facts: CommandFacts,
    processes: readonly ProcessFacts[] | undefined,
    options: { cause: unknown },
  ) {
    super(facts, `it was to be ended, and ${describeRest(processes)}`, options);
    this.processes = processes;
  }
}

function describeRest(processes: readonly ProcessFacts[] | undefined): string {
  if (processes === undefined) return "its end could not be confirmed without an agent";
  const shown = processes.slice(0, 3).map(({ pid, comm, state }) => `${comm} ${pid} (${state})`);
  const more = processes.length > 3 ? ` and ${processes.length - 3} more` : "";
  return `KILL did not end ${shown.join(", ")}${more}`;
}

function describeEnd({ exitCode, signal }: CommandFacts): string {
  if (signal !== null) return `ended by ${signal}`;
  return exitCode === null ? "ended without a status" : `exit code ${exitCode}`;
}

function lastLine(stderr: string | Uint8Array): string {
  if (typeof stderr !== "string") return "";
  const line = stderr.trimEnd().split("\n").at(-1) ?? "";
  return line === "" ? "" : ` (${line.slice(0, 200)})`;
}

function quoteShort(command: string): string {
  return JSON.stringify(command.length > 80 ? `${command.slice(0, 79)}…` : command);
}
