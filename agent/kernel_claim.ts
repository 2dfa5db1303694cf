/**
 * A claim in the kernel: opens the lock file, has a holder lock it, and looks whether it is still the
 * file that the name stands for.
 *
 * @module
 */

import { WireError } from "../protocol/wire_error.ts";
import { crashPoint } from "./crash_points.ts";
import type { Holder, HolderPool, HolderProcess } from "./holder.ts";
import { flock, LOCK_UN } from "./libc.ts";
import { isStillThere, type LockFile, openLockFile } from "./lock_file.ts";
import type { PendingClaim } from "./pending_claim.ts";

/** How often a lock file may be replaced between locking it and looking, before a claim gives up. */
const MAX_REPLACEMENTS = 10;

/** What is needed to lock a file. */
export interface KernelClaimParts {
  /** The folder of the lock files. */
  lockDir: string;
  /** Group of new lock files; absent: the agent's own. */
  gid: number | undefined;
  /** Starts holders. */
  pool: HolderPool;
}

/** What came of a try to take a lock in the kernel. */
export type KernelClaimOutcome =
  /** The kernel holds it, for the file that the name stands for. */
  | { kind: "locked"; file: LockFile; holder: HolderProcess }
  /** A foreign holder has it, and the claim does not wait. */
  | { kind: "busy" }
  /** The claim was settled or withdrawn meanwhile; nothing of the try is left. */
  | { kind: "given-up" };

/**
 * Takes a lock in the kernel. Whatever else than `locked` comes of it, no holder of it lives on when
 * it is settled, so what we have given up ourselves never stands in the way.
 *
 * @param parts What it works with.
 * @param claim The claim; its `holder` is set as soon as one is started for it.
 * @param onWaiting Called when the kernel has queued the holder.
 * @throws {WireError} `lock-file`, `holder-failed`.
 */
export async function claimInKernel(
  { lockDir, gid, pool }: KernelClaimParts,
  claim: PendingClaim,
  onWaiting: () => void,
): Promise<KernelClaimOutcome> {
  const { shared, params: { name } } = claim;
  const access = { peerUid: claim.claimant.peer.uid, gid };
  for (let tries = 0; tries < MAX_REPLACEMENTS && !claim.isSettled; tries++) {
    const file = openLockFile(lockDir, name, access);
    crashPoint("claim.file-opened");
    const order = { name, shared, wait: claim.waitMs > 0, tied: true };
    const { holder, outcome } = await pool.lock(order, file.fd, {
      onStart: (holder) => claim.start(holder),
      onWaiting,
    });
    if (outcome.kind === "locked" && !claim.isSettled && isStillThere(file)) {
      crashPoint("claim.kernel-locked");
      return { kind: "locked", file, holder };
    }
    unlock(file, holder);
    await holder.ended;
    if (claim.isWithdrawn) return { kind: "given-up" };
    if (outcome.kind === "busy") return { kind: "busy" };
    if (outcome.kind === "failed") throw holderFailed(name, outcome.reason);
  }
  if (claim.isSettled) return { kind: "given-up" };
  throw new WireError(
    "lock-file",
    `Cannot claim "${name}": its lock file is replaced again and again`,
    { name, reason: "keeps-changing" },
  );
}

/**
 * Frees a lock. LOCK_UN frees at once for every descriptor of the description; ending the holder
 * alone does not. But that comes first: an end of this process in between must not leave a holder
 * that nobody ends.
 *
 * @param file The lock file.
 * @param holder Its holder.
 * @see flock(2)
 */
export function unlock(file: LockFile, holder: Holder): void {
  holder.kill();
  crashPoint("unlock.holder-killed");
  flock(file.fd, LOCK_UN);
  crashPoint("unlock.unlocked");
  file.close();
}

function holderFailed(name: string, reason: string): WireError {
  return new WireError("holder-failed", `Cannot claim "${name}": ${reason}`, { name, reason });
}
