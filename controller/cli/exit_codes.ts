/**
 * Exit codes of `sshlock`.
 *
 * @module
 */

/** Exit codes; those of the shell protocol stay what they are. */
export const EXIT = {
  /** Done. */
  ok: 0,
  /** The lock file cannot be created on the host. */
  lockFile: 92,
  /** The lock was lost while the command ran. */
  lost: 93,
  /** Another owner has the lock, or the command took too long. */
  contended: 124,
  /** Our own failure, or bad usage. */
  failure: 125,
  /** Nobody reads our output any more: 128 + SIGPIPE. */
  brokenPipe: 141,
  /** The SSH connection failed. */
  connection: 255,
} as const;

/** Bad usage: what was written, and the way out. */
export class UsageError extends Error {
  override name = "UsageError";
  /** The way out. */
  readonly hint: string;

  /**
   * @param message What was tried, on what, and what stood in the way.
   * @param hint The way out.
   */
  constructor(message: string, hint: string) {
    super(message);
    this.hint = hint;
  }
}
