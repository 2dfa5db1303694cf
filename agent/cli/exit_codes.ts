/**
 * Exit codes of the agent's commands.
 *
 * @module
 */

/** Exit codes; those of the shell protocol stay what they are. */
export const EXIT = {
  /** Done. */
  ok: 0,
  /** `doctor` found something that is broken. */
  problems: 1,
  /** The lock file cannot be created. */
  lockFile: 92,
  /** The lock was lost while the command ran. */
  lost: 93,
  /** Another has the lock, or it did not come in time. */
  contended: 124,
  /** Our own failure, or bad usage. */
  failure: 125,
  /** The command was found and could not be started. */
  notExecutable: 126,
  /** The command was not found. */
  notFound: 127,
} as const;

/** An end of a command with a message for people. */
export class CommandError extends Error {
  override name = "CommandError";
  /** The exit code. */
  readonly exitCode: number;
  /** The way out, where there is one. */
  readonly hint: string | undefined;

  /**
   * @param message What was tried, on what, and what stood in the way.
   * @param options The exit code (default 125), a hint, and the cause.
   */
  constructor(
    message: string,
    options: { exitCode?: number; hint?: string; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.exitCode = options.exitCode ?? EXIT.failure;
    this.hint = options.hint;
  }
}
