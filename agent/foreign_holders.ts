/**
 * Who holds a lock that is none of ours.
 *
 * @module
 */

import process from "node:process";
import { lockFileName } from "../protocol/lock_name.ts";
import type { ForeignHolder } from "../protocol/messages.ts";
import { hasLockOpen } from "./kernel_locks.ts";
import { KernelView, type LockedFile } from "./kernel_view.ts";
import { isFirstPidNamespace, readCommand, readUid, whyProcIsBlind } from "./proc.ts";
import { userName } from "./users.ts";

/**
 * The processes that hold a lock, as far as they can be seen from here.
 *
 * A lock held by nobody who can be seen is still held: the answer then says why it shows no more.
 *
 * @param file A locked file.
 * @param view What it was found in.
 * @param ownPids Holders that are known already and are left out.
 * @returns One entry for an exclusive lock, one a process for a shared one; an entry without a pid
 * when none can be seen; none when the lock is free.
 */
export async function findForeignHolders(
  file: LockedFile,
  view: KernelView,
  ownPids: ReadonlySet<number>,
): Promise<ForeignHolder[]> {
  const held = file.locks.filter((lock) => lock.state === "held");
  if (held.length === 0) return [];
  const shared = held[0]!.shared;
  const named = held.map((lock) => lock.pid).filter((pid) => hasLockOpen(pid, file.path));
  if (named.some((pid) => ownPids.has(pid))) return [];
  const pids = named.length === held.length ? named : await view.holdersOf(file.path, ownPids);
  if (pids.length > 0 && !shared) return [describeProcess(mainHolder(pids, file.name), shared)];
  if (pids.length > 0) return pids.map((pid) => describeProcess(pid, shared));
  if (!await view.isStillLocked(file.path)) return [];
  return [{ kind: "foreign", shared, hiddenBecause: whyHidden() }];
}

/**
 * The processes that hold one lock by name, which was refused just now; empty when it is free.
 *
 * @param lockDir The folder of the lock files.
 * @param name The lock.
 * @param ownPids Holders that are known already and are left out.
 */
export async function findForeignHoldersOf(
  lockDir: string,
  name: string,
  ownPids: ReadonlySet<number> = new Set(),
): Promise<ForeignHolder[]> {
  const view = new KernelView(lockDir);
  const [file] = await view.lockedFiles({ name });
  if (file !== undefined) return await findForeignHolders(file, view, ownPids);
  // From inside a container no list shows what a process outside has locked.
  return isFirstPidNamespace() ? [] : [{ kind: "foreign", hiddenBecause: whyHidden() }];
}

/**
 * An exclusive lock has one open file description, which several processes may have inherited: of
 * the shell protocol's two, the one that is named like the lock stays when the shell is gone.
 */
function mainHolder(pids: number[], name: string): number {
  const command = `${lockFileName(name)} infinity`;
  return pids.find((pid) => readCommand(pid) === command) ?? pids[0]!;
}

function describeProcess(pid: number, shared: boolean): ForeignHolder {
  const uid = readUid(pid);
  const user = uid === undefined ? undefined : userName(uid);
  return { kind: "foreign", pid, uid, user, command: readCommand(pid), shared };
}

function whyHidden(): string {
  const blind = whyProcIsBlind();
  if (blind !== undefined) return blind;
  return process.getuid!() === 0
    ? "its process is in another pid namespace or has just ended"
    : "its process belongs to another user or another pid namespace";
}
