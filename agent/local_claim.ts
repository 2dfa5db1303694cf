/**
 * A lock that a command takes by itself, on a host where no agent runs.
 *
 * The holder stays tied to this process, so the kernel frees the lock however this process ends.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import process from "node:process";
import type { ClaimParams, LostParams } from "../protocol/messages.ts";
import type { HeldLock } from "./agent_claim.ts";
import { HolderPool } from "./holder.ts";
import { loadLibc } from "./libc.ts";
import { Limits } from "./limits.ts";
import { LockDirWatch } from "./lock_dir_watch.ts";
import { checkLockDir } from "./lock_file.ts";
import { type Claimant, LockTable } from "./lock_table.ts";
import { createLog } from "./log.ts";
import { type AgentPaths, ensurePrivateFolder } from "./paths.ts";
import { identifyPeer } from "./peer.ts";
import { Records } from "./records.ts";
import { TokenStore } from "./token_store.ts";

/**
 * Claims a lock from the kernel alone.
 *
 * @param paths Where locks, records and tokens lie.
 * @param owner The identity to claim under.
 * @param claim What to claim.
 * @throws {WireError} The lock is another's, or cannot be taken safely.
 */
export async function claimHere(
  paths: AgentPaths,
  owner: string,
  claim: ClaimParams,
): Promise<HeldLock> {
  // The process starts while the rest is made ready.
  const pool = new HolderPool(paths.holder, { keepsSpare: false });
  pool.prepare();
  await loadLibc();
  checkLockDir(paths.lockDir);
  for (const folder of [paths.runtimeDir, paths.stateDir]) ensurePrivateFolder(folder, 0o700);
  const records = new Records(paths.runtimeDir);
  records.prepare();
  const log = createLog("quiet");
  const table = new LockTable({
    lockDir: paths.lockDir,
    gid: undefined,
    pool,
    tokens: new TokenStore(paths.stateDir),
    records,
    limits: new Limits(),
    log,
    outlivesAgent: false,
  });
  const watch = new LockDirWatch(paths.lockDir, table, log);
  table.onHolding = (isHolding) => watch.set(isHolding);
  const command = new LocalCommand(owner, table);
  const { token } = await table.claim(command, claim);
  command.token = token;
  return command;
}

/** This process as the session of its own lock. */
class LocalCommand implements Claimant, HeldLock {
  token = 0;
  readonly owner: string;
  readonly peer = identifyPeer({
    pid: process.pid,
    uid: process.getuid!(),
    gid: process.getgid!(),
  });
  readonly clientAddress = undefined;
  onLost: ((loss: LostParams) => void) | undefined;
  readonly #table: LockTable;

  constructor(owner: string, table: LockTable) {
    this.owner = owner;
    this.#table = table;
  }

  get lastHeardAt(): number {
    return performance.now();
  }

  notifyQueued(): void {/* nobody waits here but the command itself */}

  notifyLost(loss: LostParams): void {
    this.onLost?.(loss);
    this.onLost = undefined;
  }

  release(): Promise<void> {
    this.#table.endSession(this, "the command has ended");
    return Promise.resolve();
  }
}
