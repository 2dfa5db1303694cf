/**
 * A lock that a command takes by itself, on a host where no agent runs.
 *
 * The holder stays tied to this process and to its keeper, so the kernel frees the lock however this
 * process ends, and not before what it has started is gone.
 *
 * @module
 */

import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import process from "node:process";
import { lockFileName } from "../protocol/lock_name.ts";
import type {
  ClaimParams,
  LostParams,
  ProcessFacts,
  TakeoverNotice,
} from "../protocol/messages.ts";
import type { HeldLock } from "./agent_claim.ts";
import { DEFAULT_CONFIG } from "./config.ts";
import { HolderPool, type HolderProcess, type OrderOutcome } from "./holder.ts";
import type { Order } from "./holder/order.ts";
import { Keeper } from "./keeper.ts";
import { SESSION_VARIABLE } from "./leftovers.ts";
import { loadLibc } from "./libc.ts";
import { Limits } from "./limits.ts";
import { LockDirWatch } from "./lock_dir_watch.ts";
import { checkLockDir, isStillThere, type LockFile } from "./lock_file.ts";
import { copyLockFile, isHolderOf, lockOn } from "./lock_file_copy.ts";
import { LockTable } from "./lock_table.ts";
import { createLog } from "./log.ts";
import type { Claimant, EndCause } from "./ownership.ts";
import { type AgentPaths, ensurePrivateFolder } from "./paths.ts";
import { identifyPeer } from "./peer.ts";
import { isAlive, listPids, type ProcessId, readStat } from "./proc.ts";
import { type LockRecord, Records, type SessionRecord } from "./records.ts";
import { Rights } from "./rights.ts";
import { TokenStore } from "./token_store.ts";

/** A lock of a `run` that this one was started under. */
export interface LocalOuterLock {
  /** The lock. */
  name: string;
  /** Its token. */
  token: number;
  /** The identity it is held under. */
  owner: string;
  /** The `run` that has it. */
  run: ProcessId;
}

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
  const pool = new LocalPool(paths.holder);
  // The process starts while the rest is made ready.
  pool.prepare();
  await loadLibc();
  checkLockDir(paths.lockDir);
  for (const folder of [paths.runtimeDir, paths.stateDir]) ensurePrivateFolder(folder, 0o700);
  const records = new Records(paths.runtimeDir);
  records.prepare();
  const table = makeTable(paths, pool, records);
  const command = new LocalCommand(owner, claim.name, table, pool);
  const { token } = await table.claim(command, claim);
  return command.hold(token, claim.shared === true);
}

/**
 * Joins the lock of the `run` that this one was started under. Each of the two has a descriptor of
 * the same open file description, so the lock is free when both have ended.
 *
 * @param paths Where locks lie.
 * @param outer The lock, as the environment tells of it; the kernel is asked whether it is true.
 * @param purpose What the lock is for.
 * @returns `undefined` where that `run` has the lock no longer.
 * @throws {ErrnoError} Its holder is not ours to ask: it is another user's.
 */
export async function joinHere(
  paths: AgentPaths,
  outer: LocalOuterLock,
  purpose: string | undefined,
): Promise<HeldLock | undefined> {
  const { name, token, owner } = outer;
  const pool = new LocalPool(paths.holder);
  pool.prepare();
  await loadLibc();
  const file = copyLockOf(outer.run, join(paths.lockDir, lockFileName(name)));
  // From here on nobody but us can unlock the copy: each of them ends by closing only.
  const kind = file === undefined ? undefined : lockOn("self", file.fd);
  if (file === undefined || kind === undefined || !isStillThere(file)) {
    pool.close();
    return undefined;
  }
  const shared = kind === "shared";
  const { holder, outcome } = await pool.lock({ name, shared, wait: false, tied: true }, file.fd);
  if (outcome.kind !== "locked") return undefined;
  // The record is the outer one's to write.
  const table = makeTable(paths, pool, new NoRecords(paths.runtimeDir));
  const command = new LocalCommand(owner, name, table, pool);
  const { onEnd, graceMs } = DEFAULT_CONFIG;
  const grant = { purpose, onEnd, graceMs, parkMs: 0, session: command.record };
  table.adopt(
    name,
    {
      ...{ owner, uid: process.getuid!(), token, since: Date.now(), shared, grants: [grant] },
      holder: { pid: holder.pid, startTime: readStat(holder.pid)?.startTime ?? 0 },
      agent: command.run,
    },
    file,
    holder,
    [command],
  );
  return command.hold(token, shared);
}

/** A `run` has one holder for its lock, and ends it when the lock is lost. */
function copyLockOf(run: ProcessId, path: string): LockFile | undefined {
  if (!isAlive(run)) return undefined;
  for (const pid of listPids()) {
    const stat = readStat(pid);
    if (stat?.parentPid !== run.pid || !isHolderOf(pid, path)) continue;
    return copyLockFile(stat, path);
  }
  return undefined;
}

function makeTable(paths: AgentPaths, pool: HolderPool, records: Records): LockTable {
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
  return table;
}

class NoRecords extends Records {
  override write(_record: LockRecord): undefined {
    return undefined;
  }
}

/** Tells of each holder that has the lock: of the first, and of each one that replaces a killed one. */
class LocalPool extends HolderPool {
  /** The holder that has the lock. */
  holder: HolderProcess | undefined;
  onHolder: ((holder: HolderProcess) => void) | undefined;

  constructor(executable: string) {
    super(executable, { keepsSpare: false });
  }

  override async lock(
    order: Order,
    fd: number,
    options?: { onWaiting?: () => void; onStart?: (holder: HolderProcess) => void },
  ): Promise<{ holder: HolderProcess; outcome: OrderOutcome }> {
    const locked = await super.lock(order, fd, options);
    if (locked.outcome.kind !== "locked") return locked;
    this.holder = locked.holder;
    this.onHolder?.(locked.holder);
    return locked;
  }
}

/** This process as the session of its own lock. */
class LocalCommand implements Claimant, HeldLock {
  token = 0;
  shared = false;
  readonly owner: string;
  readonly session = randomBytes(6).toString("base64url");
  readonly peer = identifyPeer({
    pid: process.pid,
    uid: process.getuid!(),
    gid: process.getgid!(),
  });
  readonly run: ProcessId = { pid: this.peer.pid, startTime: this.peer.startTime ?? 0 };
  readonly clientAddress = undefined;
  state: "held" | "ending" = "held";
  readonly awaiting: ProcessFacts[] = [];
  onLost: ((loss: LostParams) => void) | undefined;
  onTakeover: ((notice: TakeoverNotice) => void) | undefined;
  readonly #name: string;
  readonly #table: LockTable;
  readonly #pool: LocalPool;
  readonly #keeper = new Keeper(this.run, this.session);
  /** Nobody has it: such a session is never resumed. */
  readonly #secretHash = randomBytes(32).toString("hex");

  constructor(owner: string, name: string, table: LockTable, pool: LocalPool) {
    this.owner = owner;
    this.#name = name;
    this.#table = table;
    this.#pool = pool;
  }

  /** For people, and for an agent that finds the lock held after this process was killed. */
  get record(): SessionRecord {
    const variable = { name: SESSION_VARIABLE, value: this.session };
    return {
      id: this.session,
      secretHash: this.#secretHash,
      peer: this.peer,
      kind: "process",
      marks: { root: this.run, uid: this.peer.uid, variable },
      silenceMs: 0,
    };
  }

  get lastHeardAt(): number {
    return performance.now();
  }

  /** The processes that are no part of the command. */
  get spared(): ReadonlySet<number> {
    const { pid } = this.#keeper;
    return new Set([...this.#table.holderPids(), ...(pid === undefined ? [] : [pid])]);
  }

  onActive(): void {/* nobody listens for its silence */}

  onGranted(): void {/* the kernel frees the lock with this process and its keeper */}

  onIdle(): void {/* as above */}

  notifyQueued(): void {/* nobody waits here but the command itself */}

  notifyLost(loss: LostParams): void {
    this.onLost?.(loss);
    this.onLost = undefined;
  }

  notifyTakeover(): void {/* only an agent's clients can ask */}

  /** The lock is kept until the command has ended with all that it has started. */
  end(cause: EndCause): void {
    if (this.state === "ending") return;
    this.state = "ending";
    this.notifyLost({ name: this.#name, token: this.token, ...cause });
  }

  /** The lock is had: from here on it outlives this process by what this process has started. */
  hold(token: number, shared: boolean): HeldLock {
    this.token = token;
    this.shared = shared;
    this.#pool.onHolder = (holder) => this.#keeper.hold(holder.link);
    if (this.#pool.holder !== undefined) this.#keeper.hold(this.#pool.holder.link);
    return this;
  }

  started(pid: number): void {
    this.#keeper.watch(pid);
  }

  async release(): Promise<void> {
    this.onLost = undefined;
    if (this.#table.concerns(this)) this.#table.release(this, this.#name);
    this.#keeper.close();
    // No LOCK_UN frees this lock, the end of the holder does.
    await this.#pool.holder?.ended;
  }
}
