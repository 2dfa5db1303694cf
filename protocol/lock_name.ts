/**
 * Lock names: the only text of a client's that ever becomes part of a path.
 *
 * @module
 */

const LOCK_NAME = /^[A-Za-z0-9][A-Za-z0-9._@:+-]{0,99}$/;

/** What every lock file's and every holder's name begins with, as in the shell protocol. */
export const LOCK_PREFIX = "session-lock-";

/** What is allowed in a lock name, in words, for error messages. */
export const LOCK_NAME_RULE =
  "1 to 100 characters of A-Z a-z 0-9 . _ @ : + -, the first a letter or a digit";

/**
 * Whether `name` may name a lock: no slash, no leading dot, at most 100 characters.
 *
 * @param name The text to check.
 */
export function isLockName(name: unknown): name is string {
  return typeof name === "string" && LOCK_NAME.test(name);
}

/**
 * The name of the lock file and of the holder process of a lock.
 *
 * @param name A valid lock name.
 */
export function lockFileName(name: string): string {
  return LOCK_PREFIX + name;
}

/**
 * The lock name in a lock file's name, or `undefined` where the file is no lock file.
 *
 * @param fileName A name without folder.
 */
export function lockNameOfFile(fileName: string): string | undefined {
  if (!fileName.startsWith(LOCK_PREFIX)) return undefined;
  const name = fileName.slice(LOCK_PREFIX.length);
  return isLockName(name) ? name : undefined;
}
