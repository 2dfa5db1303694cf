/**
 * A lock file that was removed or replaced while its lock was held: what it excludes from then on.
 *
 * The old file excludes nobody who comes by the path. Until the processes of the sessions that had the
 * lock are gone, the agent has the new one locked itself, if nobody was faster: so the shell protocol
 * and flock(1) wait for them as well.
 *
 * @module
 */

import { flock, LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN } from "./libc.ts";
import type { Limits } from "./limits.ts";
import { isStillThere, type LockFile, openLockFile } from "./lock_file.ts";
import type { Ownership } from "./ownership.ts";

/** What a guard works with. */
export interface GuardParts {
  /** The folder of the lock files. */
  lockDir: string;
  /** Group of new lock files; absent: the agent's own. */
  gid: number | undefined;
  /** Counts descriptors. */
  limits: Limits;
}

/**
 * Locks the file that its path leads to now, in the mode that the ownership has, and goes on without
 * where that is not possible: it is locked by another, or cannot be opened safely.
 *
 * The lock is this process's own, without a holder: it ends with this process, and the next agent
 * takes it anew.
 *
 * @param parts What it works with.
 * @param ownership The ownership of the file that was replaced.
 * @see flock(2)
 */
export function guardNewFile({ lockDir, gid, limits }: GuardParts, ownership: Ownership): void {
  const { name, uid, shared, guard } = ownership;
  if (guard !== undefined && isStillThere(guard)) return;
  endGuard(limits, ownership);
  if (!limits.borrowDescriptor()) return;
  let file: LockFile | undefined;
  try {
    file = openLockFile(lockDir, name, { peerUid: uid, gid });
    const isLocked = flock(file.fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB);
    if (isLocked && isStillThere(file)) ownership.guard = file;
  } catch {
    // A claim of it is told why.
  }
  if (ownership.guard !== undefined) return;
  file?.close();
  limits.returnDescriptor();
}

/**
 * Lets the new file go.
 *
 * @param limits Counts descriptors.
 * @param ownership The ownership of the file that was replaced.
 */
export function endGuard(limits: Limits, ownership: Ownership): void {
  const { guard } = ownership;
  if (guard === undefined) return;
  ownership.guard = undefined;
  // A process that is just being started may have a copy of the descriptor for a moment.
  flock(guard.fd, LOCK_UN);
  guard.close();
  limits.returnDescriptor();
}
