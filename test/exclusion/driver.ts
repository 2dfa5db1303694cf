import { type ChildProcess, spawn } from "node:child_process";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { type ChildExit, childExit, eachLine } from "../support/child.ts";
import { until } from "../support/events.ts";
import {
  descendants,
  freeze,
  isAlive,
  killAndConfirm,
  processesWithLockIn,
  readStat,
  signalPid,
} from "../support/processes.ts";
import type { ClaimantConfig } from "./claimants.ts";
import { formatEvent, type HistoryEvent, parseHistory, type Way } from "./history.ts";
import { formatCounter, longActLine } from "./owner_log.ts";
import { makeRandom, type Random } from "./random.ts";
import type { WorkerConfig } from "./worker.ts";

/** What can go wrong in a run: kill -9 of a controller, of a holder, of an sshd session. */
export type Fault = "controller" | "holder" | "session";

/** What a run is made of. */
export interface RunOptions {
  ways: readonly Way[];
  /** Acts after which the run ends, and how many of them each way has to contribute. */
  claims: number;
  claimsPerWay: number;
  seed: number;
  deadlineMs: number;
  /** The worker program, bundled. */
  worker: string;
  /** For logs and the counter. */
  dir: string;
  lockDir: string;
  socket: string;
  bridge: string[];
  faults: readonly Fault[];
  /** The agent's process, whose children are the holders. */
  agentPid?: number;
  /** The live sshd sessions. */
  sshdSessions?: () => number[];
}

/** What a run came to; the history is for the checker. */
export interface RunResult {
  history: HistoryEvent[];
  claims: Record<Way, number>;
  faults: Record<Fault, number>;
  elapsedMs: number;
}

interface Worker {
  way: Way;
  owner: string;
  child: ChildProcess;
  pid: number;
  exit: Promise<ChildExit>;
  /** Acts so far. */
  acts: number;
  /** Acts after which faults may hit it: a way that is slow to connect would else never get to act. */
  ripeAt: number;
}

const lock = "deploy";

/**
 * Runs one worker for each way under random faults until there are enough acts, then ends them all.
 *
 * @throws {Error} A worker ended by itself, or there were not enough acts before the deadline.
 */
export async function runExclusion(options: RunOptions): Promise<RunResult> {
  const run = new Run(options);
  try {
    await run.untilEnough();
    return await run.finish();
  } finally {
    await run.endAll();
  }
}

class Run {
  readonly #options: RunOptions;
  readonly #random: Random;
  readonly #counterPath: string;
  readonly #driverLog: string;
  readonly #startedAt = performance.now();
  readonly #workers = new Map<Way, Worker>();
  readonly #logs: string[] = [];
  readonly #claims: Record<Way, number> = { agent: 0, bridge: 0, shell: 0, flock: 0 };
  readonly #faults: Record<Fault, number> = { controller: 0, holder: 0, session: 0 };
  /** Owners whose end is meant. */
  readonly #ending = new Set<string>();
  #failure: Error | undefined;
  #onLongAct: (worker: Worker) => void = () => {};

  constructor(options: RunOptions) {
    this.#options = options;
    this.#random = makeRandom(options.seed);
    this.#counterPath = join(options.dir, "counter");
    this.#driverLog = join(options.dir, "driver.jsonl");
    writeFileSync(this.#counterPath, formatCounter(0));
    writeFileSync(this.#driverLog, "");
    for (const way of options.ways) this.#start(way);
  }

  /** Injects faults until each way has contributed its part and all together have enough. */
  async untilEnough(): Promise<void> {
    while (!this.#isEnough()) {
      await delay(5 + this.#random.below(50));
      if (this.#failure !== undefined) throw this.#failure;
      if (performance.now() - this.#startedAt > this.#options.deadlineMs) {
        throw new Error(`Too few claims after ${this.#options.deadlineMs} ms: ${this.summary()}`);
      }
      const fault = this.#options.faults[this.#random.below(this.#options.faults.length)];
      if (fault !== undefined) await this.#inject(fault);
    }
  }

  /** Lets each worker finish what it does, then collects the logs. */
  async finish(): Promise<RunResult> {
    for (const worker of this.#workers.values()) {
      this.#ending.add(worker.owner);
      worker.child.stdin?.end();
    }
    for (const worker of this.#workers.values()) await worker.exit;
    if (this.#failure !== undefined) throw this.#failure;
    const counter = Number(readFileSync(this.#counterPath, "latin1"));
    this.#note({ event: "final", lock, counter });
    return {
      history: [...this.#logs, this.#driverLog].flatMap(readLog),
      claims: this.#claims,
      faults: this.#faults,
      elapsedMs: Math.round(performance.now() - this.#startedAt),
    };
  }

  /** Ends whatever still runs, by pid. */
  async endAll(): Promise<void> {
    for (const worker of this.#workers.values()) {
      this.#ending.add(worker.owner);
      if (!isAlive(worker.pid)) continue;
      const below = descendants(worker.pid);
      await killAndConfirm(worker.pid);
      for (const stat of below) await killAndConfirm(stat.pid);
    }
    await this.#endShellHolders();
  }

  summary(): string {
    return JSON.stringify({ claims: this.#claims, faults: this.#faults });
  }

  #isEnough(): boolean {
    const counts = this.#options.ways.map((way) => this.#claims[way]);
    return counts.reduce((a, b) => a + b) >= this.#options.claims &&
      Math.min(...counts) >= this.#options.claimsPerWay;
  }

  #start(way: Way): void {
    const owner = `${way}#${this.#logs.length}`;
    const { lockDir, socket, bridge } = this.#options;
    const logPath = join(this.#options.dir, `${owner}.jsonl`);
    const claimant: ClaimantConfig = { way, owner, lock, lockDir, socket, bridge };
    const config: WorkerConfig = {
      ...claimant,
      seed: this.#random.below(2 ** 32),
      logPath,
      counterPath: this.#counterPath,
    };
    writeFileSync(logPath, "");
    this.#logs.push(logPath);
    const child = spawn(process.execPath, [this.#options.worker, JSON.stringify(config)], {
      stdio: ["pipe", "pipe", "pipe"],
    });
    child.stdin.on("error", () => {});
    let stderr = "";
    eachLine(child.stderr, (line) => stderr += `\n  ${line}`);
    const exit = childExit(child);
    child.once("close", (code, signal) => {
      if (this.#ending.has(owner) && (code === 0 || signal !== null)) return;
      this.#failure ??= new Error(`The worker ${owner} ended with ${code ?? signal}:${stderr}`);
    });
    // Now and then even while it connects.
    const ripeAt = this.#random.below(10);
    const worker = { way, owner, child, pid: child.pid as number, exit, acts: 0, ripeAt };
    eachLine(child.stdout, (line) => {
      if (line === longActLine) return this.#onLongAct(worker);
      worker.acts++;
      this.#claims[way]++;
    });
    this.#workers.set(way, worker);
  }

  async #inject(fault: Fault): Promise<void> {
    if (fault === "controller") await this.#killController();
    else if (fault === "holder") this.#killHolder();
    else await this.#killSession();
  }

  async #killController(): Promise<void> {
    const worker = await this.#chooseVictim(this.#options.ways);
    if (worker === undefined || !await this.#freeze(worker)) return;
    await this.#replace(worker);
    this.#faults.controller++;
  }

  /** Half of the time whoever is next to begin a long act, else any worker, whatever it is doing. */
  async #chooseVictim(ways: readonly Way[]): Promise<Worker | undefined> {
    const isMeant = (worker: Worker) => ways.includes(worker.way) && isRipe(worker);
    if (this.#random.below(2) === 0) {
      const ripe = [...this.#workers.values()].filter(isMeant);
      return ripe[this.#random.below(ripe.length)];
    }
    const nextLongAct = new Promise<Worker>((resolve) => {
      this.#onLongAct = (worker) => isMeant(worker) && resolve(worker);
    });
    const limit = new AbortController();
    const tooLate = delay(500, undefined, { signal: limit.signal }).catch(() => undefined);
    const victim = await Promise.race([nextLongAct, tooLate]);
    limit.abort();
    this.#onLongAct = () => {};
    return victim;
  }

  /** A killed holder's agent lives: the lock must stay, so nothing else happens here. */
  #killHolder(): void {
    // Spare and waiting ones are among them: all of them may die at any time.
    const holders = descendants(this.#options.agentPid as number);
    const holder = holders[this.#random.below(holders.length)];
    if (holder !== undefined && signalPid(holder.pid, "SIGKILL")) this.#faults.holder++;
  }

  /**
   * Kills the sshd session of the bridge's worker. That worker would go on acting until it hears of it, which no lock can
   * prevent: so it is stopped first, for good, and its lock must get free by the session's end alone.
   */
  async #killSession(): Promise<void> {
    const worker = await this.#chooseVictim(["bridge"]);
    if (worker === undefined || !await this.#freeze(worker)) return;
    for (const pid of this.#options.sshdSessions?.() ?? []) {
      if (signalPid(pid, "SIGKILL")) this.#faults.session++;
    }
    const others = () => this.#options.ways.reduce((sum, way) => sum + this.#claims[way], 0);
    const before = others();
    await until(() => this.#failure !== undefined || others() > before + 1, {
      what: "a claim by another way after the death of the session",
      deadlineMs: 20_000,
    });
    await this.#replace(worker);
  }

  /**
   * Stops a worker for good and notes its death: it does nothing from here on, while its connection is still
   * open. A plain kill would close the connection some time before the parent can confirm the death.
   */
  async #freeze(worker: Worker): Promise<boolean> {
    this.#ending.add(worker.owner);
    if (!await freeze(worker.pid)) return false;
    this.#note({ event: "dead", owner: worker.owner, tMonoNs: process.hrtime.bigint() });
    return true;
  }

  async #replace(worker: Worker): Promise<void> {
    signalPid(worker.pid, "SIGKILL");
    await worker.exit;
    // What the shell protocol leaves behind is its known leak: the lock is ours to free.
    if (worker.way === "shell") await this.#endShellHolders();
    this.#start(worker.way);
  }

  async #endShellHolders(): Promise<void> {
    const isShells = (pid: number) => /^(bash|flock|sleep)$/.test(readStat(pid)?.comm ?? "");
    // A shell in the middle of its protocol may still start a holder: it ends once its input has.
    await until(async () => {
      const left = processesWithLockIn(this.#options.lockDir).filter(isShells);
      const shells = left.filter((pid) => readStat(pid)?.comm !== "sleep");
      const holders = left.filter((pid) => !shells.includes(pid));
      if (shells.length === 0) { for (const pid of holders) await killAndConfirm(pid); }
      return left.length === 0;
    }, { what: "the end of the shell protocol's processes" });
  }

  #note(event: HistoryEvent): void {
    appendFileSync(this.#driverLog, formatEvent(event));
  }
}

function isRipe(worker: Worker): boolean {
  return worker.acts >= worker.ripeAt;
}

function readLog(path: string): HistoryEvent[] {
  return parseHistory(readFileSync(path, "utf8"));
}
