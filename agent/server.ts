/**
 * The resident part of the agent: takes over what a predecessor left, listens, and serves connections.
 *
 * @module
 */

import { chmodSync, chownSync, mkdirSync, realpathSync, unlinkSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { dirname, join } from "node:path";
import { performance } from "node:perf_hooks";
import process from "node:process";
import { encodeMessage } from "../protocol/framing.ts";
import type { LockFacts, StatusResult } from "../protocol/messages.ts";
import { VERSION } from "../protocol/version.ts";
import { WireError } from "../protocol/wire_error.ts";
import { ADOPTED_LOOK_MS } from "./adopted_holder.ts";
import { adoptLocks } from "./adoption.ts";
import { LEFTOVER_LOOK_MS } from "./clean_up.ts";
import type { AgentConfig } from "./config.ts";
import { Connection, type ConnectionParts } from "./connection.ts";
import { crashPoint } from "./crash_points.ts";
import { ExitWatch } from "./exit_watch.ts";
import { ForeignWatch } from "./foreign_watch.ts";
import { endOlderGenerations } from "./generation.ts";
import { descriptorOf, HolderPool } from "./holder.ts";
import { readHostStatus, type StatusPage } from "./host_status.ts";
import { KernelView } from "./kernel_view.ts";
import { LastLosses } from "./last_losses.ts";
import { LeftoverSearch } from "./leftovers.ts";
import { peerCredentials, peerGroups } from "./libc.ts";
import { Limits } from "./limits.ts";
import { checkLockDir } from "./lock_file.ts";
import { LockDirWatch } from "./lock_dir_watch.ts";
import { LockTable } from "./lock_table.ts";
import type { Log } from "./log.ts";
import { type AgentPaths, ensurePrivateFolder } from "./paths.ts";
import { identifyPeer } from "./peer.ts";
import { Records } from "./records.ts";
import { Rights } from "./rights.ts";
import { lockRunFile } from "./run_file.ts";
import { SilenceWatch } from "./silence.ts";
import { TokenStore } from "./token_store.ts";
import { groupId } from "./users.ts";

/** How long the pages of a listing share what was seen at its start, in milliseconds. */
const MAX_VIEW_MS = 2_000;

/** The group whose members may use the host's agent. */
export const SOCKET_GROUP = "sshlock";

/** Pause between two looks whether the root of any detached session has ended, in milliseconds. */
const ROOT_LOOK_MS = 20;

/** Connections that may wait for accept(2); the kernel caps it at net.core.somaxconn. */
const BACKLOG = 512;

/** Where an agent started by systemd finds its listening socket; sd_listen_fds(3). */
const ACTIVATION_FD = 3;

/** How an agent is started. */
export interface ServerOptions {
  /** Where its files lie. */
  paths: AgentPaths;
  /** Where events go. */
  log: Log;
  /** What is configured. */
  config: AgentConfig;
  /** The file it is from, for the log; absent: none. */
  configPath?: string;
  /** Group of the socket and of new lock files; absent: the user's own. */
  gid?: number;
  /** End once nothing was connected for so long, in milliseconds; absent: never. */
  idleExitMs?: number;
}

/** A running agent. */
export interface AgentServer {
  /** Resolved when the agent has ended, with the reason. */
  readonly ended: Promise<string>;
  /**
   * Ends the connections and stops listening. Locks stay held: the next agent takes them over.
   *
   * @param reason Why, for the log.
   */
  stop(reason: string): void;
}

/**
 * Starts the resident agent.
 *
 * @param options How it is started.
 * @throws {AlreadyRunningError} Another agent runs in the same place.
 * @throws {WireError} `lock-file`: the lock folder is not fit for locks; `no-token`: no counter.
 * @throws {UnsafeFolderError} Another user could reach into the runtime or state folder.
 */
export async function startServer(options: ServerOptions): Promise<AgentServer> {
  const { paths, log } = options;
  checkLockDir(paths.lockDir);
  const unlock = await lockPlaces(options);
  const parts = assemble(options);
  parts.records.prepare();
  parts.tokens.prepare();
  const agent = new Agent(options, parts, unlock);
  agent.adopt();
  await agent.listen();
  crashPoint("serve.listening");
  parts.pool.refill();
  log("agent-started", {
    version: VERSION,
    pid: process.pid,
    socket: paths.socket,
    lockDir: paths.lockDir,
    config: options.configPath,
    activated: isActivated(),
  });
  return agent;
}

interface Parts {
  records: Records;
  tokens: TokenStore;
  pool: HolderPool;
  limits: Limits;
  table: LockTable;
  rights: Rights;
}

async function lockPlaces({ paths, gid, log }: ServerOptions): Promise<() => void> {
  const { runtimeDir, stateDir, socket } = paths;
  const isShared = gid !== undefined;
  ensurePrivateFolder(runtimeDir, isShared ? 0o750 : 0o700);
  if (isShared) chownSync(runtimeDir, -1, gid);
  ensurePrivateFolder(stateDir, 0o700);
  const runFile = join(realpathSync(runtimeDir), "agent.lock");
  const unlockRuntime = await lockRunFile(runFile);
  crashPoint("serve.run-locked");
  await endOlderGenerations(runFile, log);
  crashPoint("serve.older-ended");
  if (dirname(socket) === runtimeDir || isActivated()) return unlockRuntime;
  mkdirSync(dirname(socket), { recursive: true, mode: 0o700 });
  const unlockSocket = await lockRunFile(`${socket}.lock`);
  return () => {
    unlockSocket();
    unlockRuntime();
  };
}

function assemble({ paths, log, gid, config }: ServerOptions): Parts {
  const records = new Records(paths.runtimeDir);
  const tokens = new TokenStore(paths.stateDir);
  const pool = new HolderPool(paths.holder, { keepsCopies: true });
  const limits = new Limits(config);
  const rights = new Rights(
    config.adminGroup === undefined ? undefined : groupId(config.adminGroup),
  );
  const { lockDir } = paths;
  const table = new LockTable({
    lockDir,
    gid,
    pool,
    tokens,
    records,
    limits,
    log,
    config,
    outlivesAgent: true,
    rights,
  });
  return { records, tokens, pool, limits, table, rights };
}

class Agent implements AgentServer {
  readonly ended: Promise<string>;
  readonly #options: ServerOptions;
  readonly #parts: Parts;
  readonly #unlock: () => void;
  readonly #server: Server;
  readonly #shared: ConnectionParts;
  readonly #watch: LockDirWatch;
  readonly #sockets = new Set<Socket>();
  /** What the pages of the last listing have seen. */
  #view: KernelView | undefined;
  #resolveEnded!: (reason: string) => void;
  #idleTimer: ReturnType<typeof setTimeout> | undefined;
  #isOver = false;

  constructor(options: ServerOptions, parts: Parts, unlock: () => void) {
    this.#options = options;
    this.#parts = parts;
    this.#unlock = unlock;
    this.ended = new Promise((resolve) => this.#resolveEnded = resolve);
    this.#shared = {
      table: parts.table,
      rights: parts.rights,
      silence: new SilenceWatch(),
      roots: new ExitWatch(ROOT_LOOK_MS, parts.limits),
      search: new LeftoverSearch(() => parts.table.holderPids()),
      leftovers: new ExitWatch(LEFTOVER_LOOK_MS, parts.limits),
      sessions: new Map(),
      losses: new LastLosses(),
      active: new Set(),
      log: options.log,
      config: options.config,
      status: (page) => this.#status(page),
      foreign: new ForeignWatch({
        lockDir: options.paths.lockDir,
        holderPids: () => parts.table.holderPids(),
        statusOf: (names) => this.#statusOf(names),
      }),
      isStopping: () => this.#isOver,
    };
    this.#watch = new LockDirWatch(options.paths.lockDir, parts.table, options.log);
    parts.table.onHolding = (isHolding) => this.#watch.set(isHolding);
    // Half-open: a client may send its requests, close its side, and still read the answers.
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket));
  }

  /** Takes over what a predecessor has left, before anyone can connect. */
  adopt(): void {
    const { records, table } = this.#parts;
    const { paths: { lockDir }, log } = this.#options;
    // Their descriptors are among those that are counted for each claim.
    const budget = { borrowDescriptor: () => true, returnDescriptor() {} };
    const holders = new ExitWatch(ADOPTED_LOOK_MS, budget);
    adoptLocks({ records, table, lockDir, log, sessions: this.#shared, holders });
  }

  async listen(): Promise<void> {
    const { socket } = this.#options.paths;
    const activated = isActivated();
    if (!activated) removeStaleSocket(socket);
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      const where = activated ? { fd: ACTIVATION_FD } : { path: socket, backlog: BACKLOG };
      // The socket is nobody's until its group and mode are set.
      const umask = process.umask(0o177);
      this.#server.listen(where, () => {
        this.#server.off("error", reject);
        resolve();
      });
      process.umask(umask);
    });
    this.#server.on("error", (error) => {
      this.#options.log("server-error", { message: error.message });
    });
    if (!activated) openSocketTo(socket, this.#options.gid);
    this.#startIdleTimer();
  }

  stop(reason: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    const { pool, tokens, table } = this.#parts;
    clearTimeout(this.#idleTimer);
    table.cancelAll(reason);
    // Holders and records stay: the next agent takes them over, and the sessions resume with it.
    this.#restoreRecords();
    pool.close();
    this.#watch.close();
    if (!isActivated()) removeStaleSocket(this.#options.paths.socket);
    this.#server.close();
    for (const socket of this.#sockets) socket.end(() => socket.destroy());
    tokens.close();
    this.#options.log("agent-ended", { reason });
    this.#unlock();
    this.#resolveEnded(reason);
  }

  #accept(socket: Socket): void {
    const { limits } = this.#parts;
    const { log } = this.#options;
    try {
      const fd = descriptorOf(socket);
      const peer = identifyPeer(peerCredentials(fd));
      if (this.#options.config.adminGroup !== undefined) peer.groups = peerGroups(fd);
      limits.addConnection(peer.uid);
      this.#sockets.add(socket);
      clearTimeout(this.#idleTimer);
      socket.once("close", () => {
        limits.removeConnection(peer.uid);
        this.#sockets.delete(socket);
        this.#startIdleTimer();
      });
      new Connection(socket, peer, this.#shared);
    } catch (error) {
      log("connection-refused", { message: (error as Error).message });
      socket.on("error", () => {/* it is on its way out */});
      if (error instanceof WireError) {
        socket.write(encodeMessage({ jsonrpc: "2.0", id: null, error: error.toWire() }));
      }
      socket.end(() => socket.destroy());
    }
  }

  async #status(page: StatusPage): Promise<StatusResult> {
    const { records, table } = this.#parts;
    const { lockDir } = this.#options.paths;
    const view = this.#viewFor(page);
    table.checkFiles(page);
    const locks = (page: StatusPage) => table.facts(page);
    const agent = { locks, holderPids: () => table.holderPids().add(process.pid), view };
    const result = await readHostStatus({ lockDir, records, agent }, page);
    // Nothing of a listing is kept once it has ended.
    if (result.more !== true && this.#view === view) this.#view = undefined;
    return result;
  }

  async #statusOf(names: readonly string[]): Promise<LockFacts[]> {
    const { records, table } = this.#parts;
    const { lockDir } = this.#options.paths;
    const locks = (page: StatusPage) => table.facts(page);
    const view = new KernelView(lockDir);
    const agent = { locks, holderPids: () => table.holderPids(), view };
    const facts: LockFacts[] = [];
    for (const name of names) {
      facts.push(...(await readHostStatus({ lockDir, records, agent }, { name })).locks);
    }
    return facts;
  }

  #viewFor({ name, after }: StatusPage): KernelView {
    const { lockDir } = this.#options.paths;
    if (name !== undefined) return new KernelView(lockDir);
    const isOver = performance.now() - (this.#view?.madeAt ?? -Infinity) > MAX_VIEW_MS;
    if (after === undefined || isOver) this.#view = new KernelView(lockDir);
    else this.#view?.continue();
    return this.#view ??= new KernelView(lockDir);
  }

  /** Somebody may have removed the runtime folder; without records the holders would be nobody's. */
  #restoreRecords(): void {
    const { records, table } = this.#parts;
    if (records.isThere()) return;
    for (const session of this.#shared.sessions.values()) table.recordOf(session);
  }

  #stopIfIdle(): void {
    if (this.#parts.table.ownershipCount === 0) this.stop("nothing was connected");
    else this.#startIdleTimer();
  }

  #startIdleTimer(): void {
    const { idleExitMs } = this.#options;
    if (idleExitMs === undefined || this.#isOver || this.#sockets.size > 0) return;
    clearTimeout(this.#idleTimer);
    this.#idleTimer = setTimeout(() => this.#stopIfIdle(), idleExitMs);
  }
}

/** Whether systemd has passed a listening socket to this process. */
function isActivated(): boolean {
  const { LISTEN_PID, LISTEN_FDS } = process.env;
  return Number(LISTEN_PID) === process.pid && Number(LISTEN_FDS) > 0;
}

/** Only after the run file was locked: then no living agent listens on it. */
function removeStaleSocket(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

function openSocketTo(path: string, gid: number | undefined): void {
  if (gid !== undefined) chownSync(path, -1, gid);
  chmodSync(path, gid === undefined ? 0o600 : 0o660);
}
