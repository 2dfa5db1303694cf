/**
 * A lock that a command takes by itself, on a host where no agent runs.
 *
 * The holder stays tied to this process, so the kernel frees the lock however this process ends.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import process from "node:process";
import type { ClaimParams, LostParams, ProcessFacts } from "../protocol/messages.ts";
import type { HeldLock } from "./agent_claim.ts";
import { DEFAULT_CONFIG } from "./config.ts";
import { HolderPool } from "./holder.ts";
import { loadLibc } from "./libc.ts";
import { Limits } from "./limits.ts";
import { LockDirWatch } from "./lock_dir_watch.ts";
import { checkLockDir } from "./lock_file.ts";
import { LockTable } from "./lock_table.ts";
import { createLog } from "./log.ts";
import type { Claimant } from "./ownership.ts";
import { type AgentPaths, ensurePrivateFolder } from "./paths.ts";
import { identifyPeer } from "./peer.ts";
import { Records, type SessionRecord } from "./records.ts";
import { Rights } from "./rights.ts";
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
    limits: new Limits(DEFAULT_CONFIG),
    config: DEFAULT_CONFIG,
    log,
    outlivesAgent: false,
    rights: new Rights(undefined),
  });
  const watch = new LockDirWatch(paths.lockDir, table, log);
  table.onHolding = (isHolding) => watch.set(isHolding);
  const command = new LocalCommand(owner, claim.name, table);
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
  readonly state = "held";
  readonly awaiting: ProcessFacts[] = [];
  onLost: ((loss: LostParams) => void) | undefined;
  readonly #name: string;
  readonly #table: LockTable;

  constructor(owner: string, name: string, table: LockTable) {
    this.owner = owner;
    this.#name = name;
    this.#table = table;
  }

  /** Only for people: a lock that is tied to this process is never taken over. */
  get record(): SessionRecord {
    const root = { pid: this.peer.pid, startTime: this.peer.startTime ?? 0 };
    return {
      id: "local",
      secretHash: "0".repeat(64),
      peer: this.peer,
      kind: "process",
      marks: { root, uid: this.peer.uid },
      silenceMs: 0,
    };
  }

  get lastHeardAt(): number {
    return performance.now();
  }

  onActive(): void {/* nobody listens for its silence */}

  onGranted(): void {/* the kernel frees the lock with this process */}

  onIdle(): void {/* as above */}

  notifyQueued(): void {/* nobody waits here but the command itself */}

  notifyLost(loss: LostParams): void {
    this.onLost?.(loss);
    this.onLost = undefined;
  }

  notifyTakeover(): void {/* only an agent's clients can ask */}

  end(): void {/* as above */}

  release(): Promise<void> {
    this.onLost = undefined;
    if (this.#table.concerns(this)) this.#table.release(this, this.#name);
    return Promise.resolve();
  }
}
