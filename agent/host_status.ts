/**
 * Everything that holds a lock on this host: what the agent knows, completed by what the kernel has.
 *
 * @module
 */

import type { ForeignHolder, HolderFacts, LockFacts, StatusResult } from "../protocol/messages.ts";
import { findForeignHolders } from "./foreign_holders.ts";
import { type FileSelection, KernelView, type LockedFile } from "./kernel_view.ts";
import { type ProcessId, readStat } from "./proc.ts";
import { type OwnershipRecord, partsOfRecord, type Records } from "./records.ts";

/** Where to look. */
export interface StatusSources {
  /** The folder of the lock files. */
  lockDir: string;
  /** Records that explain holders. */
  records: Records;
  /** What the running agent knows; absent where none runs. */
  agent?: {
    /** Its locks and waiters. */
    locks(page: StatusPage): LockFacts[];
    /** Its holders, the waiting ones included. */
    holderPids(): ReadonlySet<number>;
    /** What the pages of one listing share. */
    view: KernelView;
  };
}

/** Which locks are asked for. */
export interface StatusPage {
  /** Only this lock; it is then in the result even when it is free. */
  name?: string;
  /** Only locks whose name sorts after this one. */
  after?: string;
  /** At most so many. */
  limit?: number;
}

/**
 * The locks that are held or waited for. The kernel decides what is held; who holds it comes from
 * the agent, else from a record that fits the process exactly, else from the process itself.
 *
 * @param sources Where to look.
 * @param page Which locks; absent: all.
 */
export async function readHostStatus(
  sources: StatusSources,
  page: StatusPage = {},
): Promise<StatusResult> {
  const { name, limit = Infinity } = page;
  const { agent, lockDir } = sources;
  const own = agent?.locks(page) ?? [];
  const locks = new Map<string, LockFacts>(own.map((lock) => [lock.name, lock]));
  const notes: string[] = [];
  const view = agent?.view ?? new KernelView(lockDir);
  // What the agent holds exclusively leaves no room for another holder.
  const isKnown = (name: string) =>
    locks.get(name)?.holders.some((holder) => holder.shared === false) === true;
  // Each source tells its first ones, so together they have the first ones of all.
  const upTo = own.length === limit ? own.at(-1)?.name : undefined;
  const files = await readLockedFiles(view, { ...page, upTo, isKnown }, lockDir, notes);
  for (const file of files) await addForeignHolders(locks, file, view, sources);
  if (name !== undefined && !locks.has(name)) locks.set(name, { name, holders: [], waiters: [] });
  const sorted = [...locks.values()].sort((a, b) => a.name < b.name ? -1 : 1).slice(0, limit);
  const isCut = sorted.length < locks.size || own.length === limit || files.length === limit;
  return {
    locks: sorted,
    ...isCut ? { more: true } : {},
    ...notes.length === 0 ? {} : { notes },
  };
}

async function readLockedFiles(
  view: KernelView,
  selection: FileSelection,
  lockDir: string,
  notes: string[],
): Promise<LockedFile[]> {
  try {
    return await view.lockedFiles(selection);
  } catch (error) {
    notes.push(`Cannot ask the kernel for locks in ${lockDir}: ${(error as Error).message}`);
    return [];
  }
}

async function addForeignHolders(
  locks: Map<string, LockFacts>,
  file: LockedFile,
  view: KernelView,
  { agent, records }: StatusSources,
): Promise<void> {
  const known = locks.get(file.name);
  const foreign = await findForeignHolders(file, view, agent?.holderPids() ?? new Set());
  if (foreign.length === 0) return;
  const ownerships = records.read(file.name)?.ownerships ?? [];
  const holders: HolderFacts[] = foreign.map((holder) => explain(holder, ownerships));
  locks.set(file.name, {
    name: file.name,
    holders: [...known?.holders ?? [], ...holders],
    waiters: known?.waiters ?? [],
  });
}

/**
 * The holder with what a record says of it, if one is about exactly this process.
 *
 * @param holder A holder that is not this agent's.
 * @param ownerships What the record of its lock says.
 */
export function explain(holder: ForeignHolder, ownerships: OwnershipRecord[]): ForeignHolder {
  const { pid } = holder;
  if (pid === undefined) return holder;
  const found = ownerships.find((ownership) => isSameProcess(ownership.holder, pid));
  if (found === undefined) return holder;
  const { owner, token, since } = found;
  const purpose = partsOfRecord(found)[0]?.purpose;
  return { ...holder, record: { owner, purpose, token, since } };
}

function isSameProcess(recorded: ProcessId, pid: number): boolean {
  return recorded.pid === pid && readStat(pid)?.startTime === recorded.startTime;
}
