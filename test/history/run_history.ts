import { type ChildProcess, spawn } from "node:child_process";
import { chmodSync, copyFileSync, cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Target, Way as Transport } from "../../controller/mod.ts";
import { builtHolder, dirArgs } from "../support/agent_process.ts";
import { bundleProgram } from "../support/bundle.ts";
import { type ChildExit, childExit, eachLine } from "../support/child.ts";
import { until } from "../support/events.ts";
import { type PrivateSshd, startPrivateSshd, whyNoSshd } from "../support/private_sshd.ts";
import {
  freeze,
  killAndConfirm,
  processesWithLockIn,
  readStat,
  signalPid,
} from "../support/processes.ts";
import { findTool } from "../support/requires.ts";
import { checkHistory, type Verdict } from "./checker.ts";
import { checkTheEnd, processesOf } from "./end_checks.ts";
import { controllerFaults, faults as allFaults, type FaultTargets } from "./faults.ts";
import type { HistoryEvent } from "./history.ts";
import { HistoryFiles } from "./history_files.ts";
import { absoluteWords, Host } from "./host.ts";
import type { WorkerConfig } from "./local_worker.ts";
import { makeNetwork, type Network, whyNoNetwork } from "./network.ts";
import { makeRandom, type Random } from "./random.ts";
import { nowNs, Recorder } from "./recorder.ts";
import type { Ending, SshConfig } from "./ssh_worker.ts";
import type { ToolConfig } from "./tool_worker.ts";

/** How many clients of each kind. */
export interface Crowd {
  /** Processes of local clients, and clients in each. */
  localProcesses: number;
  localClients: number;
  /** Whether one more process of them belongs to another user (needs root). */
  strangers: boolean;
  run: number;
  shell: number;
  flock: number;
  library: number;
  bridge: number;
}

/** What a run is made of. */
export interface RunOptions {
  seed: number;
  /** The agent's argv. */
  agent: string[];
  holder?: string;
  maxDescriptors?: number;
  crowd: Crowd;
  locks: number;
  /** Locks, of those, whose files are taken away. */
  unlinkedLocks: number;
  /** By name; how often each is chosen, relative to the others. */
  faults: Record<string, number>;
  /** Pause between two faults, in milliseconds, at most. */
  faultPauseMs: number;
  /** Operations between two faults, at least: a slow machine is not to be busy with faults alone. */
  faultOperations?: number;
  endings: Ending[];
  /** Of 100 locks of a controller or of `run`, how many end otherwise than by release. */
  endingShare: number;
  /** Owners that clients share. */
  owners: number;
  /** Whether controllers, too, claim under these owners. */
  sharesControllers?: boolean;
  pauseUs: number;
  /** The same for clients that start a program for each claim, in microseconds; at least 40,000. */
  toolPauseUs?: number;
  /** The same for controllers; at least 50,000, and that unless told. */
  sshPauseUs?: number;
  /** Of 100 claims, how many wait. */
  waiting: number;
  /** How long most waiting claims of local clients wait, in milliseconds; some wait 3 s. */
  waitMs?: number;
  /** The grace of claims that give none (those of `run`), in milliseconds; the agent's unless told. */
  graceMs?: number;
  /** The longest time that local clients and controllers hold a lock on purpose, in milliseconds. */
  holdMs: number;
  /** The same for flock(1) and the shell protocol; 12 unless told. */
  toolHoldMs?: number;
  /** It ends when so many operations are done, but not before `minMs`. */
  operations: number;
  /** With fewer of them by the deadline something hangs; all of them, unless told. */
  atLeast?: number;
  minMs: number;
  deadlineMs: number;
  /** Whether to look at the history while it grows, and to stop at the first broken rule or leak. */
  stopsAtViolation: boolean;
  /** Such a run ends when these faults were done so often. */
  enough?: Record<string, number>;
  /** Whether it ends when nothing is granted any longer: locks that stay taken are found at the end. */
  endsAtStall?: boolean;
  /** What else is a finding at which such a run stops. */
  isFinding?: (verdict: Verdict) => boolean;
  /** Whether controllers that are stopped or cut off stay so until the end, checks included. */
  staysCut?: boolean;
  /** Time for locks and leftovers to go at the end, in milliseconds. */
  endDeadlineMs: number;
  /** Told what goes on. */
  say?: (line: string) => void;
}

/** What a run came to. */
export interface RunResult {
  verdict: Verdict;
  /** What was found when all clients had ended. */
  leaks: string[];
  /** Why the run did not come to its end, as far as it did not. */
  failure: string | undefined;
  elapsedMs: number;
  clients: number;
}

interface Worker {
  child: ChildProcess;
  exit: Promise<ChildExit>;
  config: WorkerConfig;
  kind: "local" | "stranger" | "tools" | "ssh";
}

/** The silence limit of controllers, in milliseconds: short, so that silence is met often. */
const silenceMs = 2_500;

/** Nobody: the user of strangers and bystanders. */
const strangerUid = 65_534;

/** Without a grant for so long, locks are taken to stay taken, in milliseconds. */
const stallMs = 4_000;

/** Between two faults, in milliseconds, at most: nothing may be answered for as long as a fault lasts. */
const longestPauseMs = 5_000;

/** Between two looks at what has been recorded, in milliseconds. */
const lookMs = 400;

/** Runs clients and faults, and judges what they recorded. */
export async function runHistory(options: RunOptions): Promise<RunResult> {
  await using run = new Run(options);
  return await run.toTheEnd();
}

class Run implements AsyncDisposable {
  readonly #options: RunOptions;
  readonly #random: Random;
  readonly #startedAt = performance.now();
  readonly #workers = new Set<Worker>();
  /** Pids of workers that stay stopped until the end. */
  readonly #cut = new Set<number>();
  readonly #locks: string[];
  readonly #unlinked: string[];
  readonly #owners: string[];
  readonly #bystanders: ChildProcess[] = [];
  #host!: Host;
  #recorder!: Recorder;
  #network: Network | undefined;
  #sshd: PrivateSshd | undefined;
  #history!: string;
  #files!: HistoryFiles;
  #actor!: string[];
  #programs!: Record<"local" | "tools" | "ssh", string>;
  #spawned = 0;
  #isEnding = false;
  #isStalled = false;
  #found: Verdict | undefined;
  #failure: string | undefined;

  constructor(options: RunOptions) {
    this.#options = options;
    this.#random = makeRandom(options.seed);
    const { locks, unlinkedLocks, owners } = options;
    this.#unlinked = Array.from({ length: unlinkedLocks }, (_, index) => `taken-${index}`);
    const others = Array.from({ length: locks - unlinkedLocks }, (_, index) => `lock-${index}`);
    this.#locks = [...others, ...this.#unlinked];
    this.#owners = Array.from({ length: owners }, (_, index) => `team-${index}`);
  }

  async toTheEnd(): Promise<RunResult> {
    await this.#prepare();
    this.#startAll();
    const faulting = this.#injectFaults();
    await this.#untilEnough();
    this.#isEnding = true;
    await faulting;
    // What has been found is found: only a run without a finding has to come to its end.
    if (this.#found === undefined) await this.#endWorkers();
    const verdict = this.#found ?? this.#look();
    const isOver = this.#options.stopsAtViolation && this.#isFinding(verdict);
    const leaks = isOver ? [] : await this.#checkTheEnd();
    const { localProcesses, localClients, strangers, ...others } = this.#options.crowd;
    const clients = (localProcesses + Number(strangers)) * localClients +
      Object.values(others).reduce((a, b) => a + b);
    const elapsedMs = Math.round(performance.now() - this.#startedAt);
    this.#keep(verdict.ok && leaks.length === 0 && this.#failure === undefined);
    return { verdict, leaks, failure: this.#failure, elapsedMs, clients };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isEnding = true;
    for (const { child, exit } of this.#workers) {
      signalPid(child.pid!, "SIGKILL");
      await exit.catch(() => {});
    }
    await this.#sshd?.stop();
    for (const pid of this.#actor === undefined ? [] : processesOf(this.#actor[1]!)) {
      await killAndConfirm(pid);
    }
    for (const { pid } of this.#bystanders) signalPid(pid!, "SIGKILL");
    await this.#host?.[Symbol.asyncDispose]();
    await this.#network?.[Symbol.asyncDispose]();
  }

  // ---- beginning -------------------------------------------------------------------------------

  async #prepare(): Promise<void> {
    const { agent, holder, maxDescriptors, graceMs, crowd } = this.#options;
    // The recorder's file lies in a folder that the host makes: the host comes first.
    const late: { recorder?: Recorder } = {};
    const recorder = {
      write: (event: never, t?: number) => late.recorder?.write(event, t),
    } as unknown as Recorder;
    this.#host = await Host.start({
      ...{ agent, recorder },
      ...(holder === undefined ? {} : { holder }),
      ...(maxDescriptors === undefined ? {} : { maxDescriptors }),
      ...(graceMs === undefined ? {} : { graceMs }),
    });
    const { dir } = this.#host;
    this.#history = join(dir, "history");
    mkdirSync(this.#history);
    chmodSync(this.#history, 0o777);
    this.#files = new HistoryFiles(this.#history);
    this.#recorder = late.recorder = new Recorder(join(this.#history, "driver.jsonl"));
    // A copy whose path is this run's own: its processes can be told from others'.
    const actor = join(dir, "actor.pl");
    copyFileSync("test/fixtures/actor.pl", actor);
    chmodSync(actor, 0o755);
    this.#actor = [findTool("perl")!, actor];
    const bundle = (name: string) => bundleProgram(`test/history/${name}_worker.ts`, dir);
    this.#programs = {
      local: await bundle("local"),
      tools: await bundle("tool"),
      ssh: await bundle("ssh"),
    };
    if (crowd.library + crowd.bridge === 0 || whyNoSshd() !== undefined) return;
    if (whyNoNetwork() === undefined) this.#network = await makeNetwork();
    const keys = join(dir, "sshd");
    mkdirSync(keys);
    this.#installAgent(join(dir, "bin"));
    const address = this.#network?.hostAddress;
    this.#sshd = await startPrivateSshd({
      dir: keys,
      // Not the home of who runs this: each command would read that one's start files first.
      extraConfig: [`SetEnv PATH=/usr/bin:/bin:${join(dir, "bin")} HOME=${dir}`],
      ...(address === undefined ? {} : { address }),
    });
  }

  /** Puts the agent into a folder that SSH sessions have in their PATH, for bridges. */
  #installAgent(bin: string): void {
    mkdirSync(bin);
    const words = absoluteWords(this.#options.agent).map((word) => `'${word}'`).join(" ");
    const { socket, lockDir, runtimeDir, stateDir } = this.#host.dirs;
    // Without an agent the bridge starts none: that is for the driver to do.
    const script = `#!/bin/sh\n[ "$1" != serve ] || exit 1\n` +
      `export SSHLOCK_HOLDER='${resolve(builtHolder())}' SSHLOCK_LOCK_DIR='${lockDir}' ` +
      `SSHLOCK_RUNTIME_DIR='${runtimeDir}' SSHLOCK_STATE_DIR='${stateDir}' ` +
      `SSHLOCK_SOCKET='${socket}'\nexec ${words} "$@"\n`;
    writeFileSync(join(bin, "sshlock-agent"), script, { mode: 0o755 });
  }

  #startAll(): void {
    const { crowd } = this.#options;
    for (let index = 0; index < crowd.localProcesses; index++) this.#startLocal("local");
    if (crowd.strangers && process.getuid?.() === 0) this.#startLocal("stranger");
    if (crowd.run + crowd.shell + crowd.flock > 0) this.#startTools();
    if (this.#sshd === undefined) return;
    for (let index = 0; index < crowd.library; index++) this.#startSsh("streamlocal");
    for (let index = 0; index < crowd.bridge; index++) this.#startSsh("bridge");
  }

  #configFor(kind: string, clients: string[]): WorkerConfig {
    const { pauseUs, waiting, waitMs = 3000, holdMs } = this.#options;
    const { socket, lockDir } = this.#host.dirs;
    const log = join(this.#history, `${kind}-${this.#spawned}.jsonl`);
    writeFileSync(log, "");
    chmodSync(log, 0o666);
    return {
      ...{ clients, log, socket, lockDir, pauseUs, waiting, waitMs, holdMs },
      seed: this.#random.below(2 ** 32),
      ...{ locks: this.#locks, unlinked: this.#unlinked, owners: this.#owners },
    };
  }

  #startLocal(kind: "local" | "stranger"): void {
    const id = ++this.#spawned;
    const count = this.#options.crowd.localClients;
    const names = Array.from({ length: count }, (_, index) => `${kind}${id}.${index}`);
    const config = this.#configFor(kind, names);
    this.#start(kind, this.#programs.local, config, kind === "stranger" ? strangerUid : undefined);
  }

  #startTools(): void {
    const { crowd: { run, shell, flock }, endings, endingShare } = this.#options;
    const id = ++this.#spawned;
    const names = (kind: string, count: number) =>
      Array.from({ length: count }, (_, index) => `${kind}${id}.${index}`);
    const base = this.#configFor("tools", [
      ...names("run", run),
      ...names("shell", shell),
      ...names("flock", flock),
    ]);
    const { dirs } = this.#host;
    const config: ToolConfig = {
      ...base,
      run: [
        ...absoluteWords(this.#options.agent),
        ...["run", ...dirArgs(dirs), "--holder", resolve(builtHolder())],
      ],
      actor: this.#actor,
      toolHoldMs: this.#options.toolHoldMs ?? 12,
      kills: endings.length > 0 ? Math.max(25, endingShare) : 0,
      pauseUs: this.#options.toolPauseUs ?? Math.max(base.pauseUs, 40_000),
    };
    this.#start("tools", this.#programs.tools, config);
  }

  #startSsh(transport: Transport): void {
    const { host, port, username, privateKey, hostFingerprint } = this.#sshd!;
    const name = `${transport === "bridge" ? "bridge" : "ssh"}${++this.#spawned}`;
    const target: Target = {
      ...{ host, port, username, privateKey, hostFingerprint },
      agentSocket: this.#host.dirs.socket,
    };
    const { endings, endingShare, sharesControllers } = this.#options;
    const base = this.#configFor("ssh", [name]);
    const owner = sharesControllers === true
      ? this.#owners[this.#random.below(this.#owners.length)]!
      : name;
    const config: SshConfig = {
      ...base,
      library: resolve("dist/controller/mod.js"),
      ...{ target, transport, owner, actor: this.#actor, silenceMs, endings, endingShare },
      pauseUs: Math.max(50_000, this.#options.sshPauseUs ?? 50_000),
    };
    const worker = this.#start("ssh", this.#programs.ssh, config);
    eachLine(worker.child.stdout!, (line) => void this.#endController(worker, line));
    // It ends with its session; another one takes its place, after a pause as between two claims: no
    // storm of starts while the agent cannot be reached.
    const pauseMs = this.#random.below((this.#options.sshPauseUs ?? 0) / 1000);
    void worker.exit.then(() => delay(pauseMs)).then(() => {
      if (!this.#isEnding) this.#startSsh(transport);
    });
  }

  #start(kind: Worker["kind"], program: string, config: WorkerConfig, uid?: number): Worker {
    const prefix = kind === "ssh" ? this.#network?.prefix ?? [] : [];
    const [command, ...args] = [...prefix, process.execPath, program, JSON.stringify(config)];
    const child = spawn(command!, args, {
      stdio: ["pipe", "pipe", "pipe"],
      ...(uid === undefined ? {} : { uid, gid: uid }),
    });
    child.stdin.on("error", () => {});
    let stderr = "";
    eachLine(child.stderr, (line) => stderr += `\n  ${line}`);
    const worker = { child, exit: childExit(child), config, kind };
    this.#workers.add(worker);
    child.once("close", (code, signal) => {
      this.#workers.delete(worker);
      if (stderr !== "" && kind === "ssh") this.#options.say?.(stderr.trim());
      if (code !== 0 && signal === null) {
        this.#failure ??= `the worker ${kind} ended with ${code}:${stderr}`;
      }
    });
    return worker;
  }

  // ---- faults ----------------------------------------------------------------------------------

  /** What cuts controllers off takes seconds: it goes on beside what is done to the host. */
  async #injectFaults(): Promise<void> {
    const all = Object.entries(this.#options.faults)
      .flatMap(([name, weight]) => Array<string>(weight).fill(name));
    const ofControllers = all.filter((name) => controllerFaults.includes(name));
    const ofHost = all.filter((name) => !controllerFaults.includes(name));
    await Promise.all([ofHost, ofControllers].map((names) => this.#injectInTurn(names)));
  }

  /** Each of them once before any comes again, in an order that is drawn anew each time. */
  async #injectInTurn(names: readonly string[]): Promise<void> {
    const random = makeRandom(this.#random.below(2 ** 32));
    const targets = this.#targets(random);
    let left: string[] = [];
    while (!this.#isEnding && names.length > 0) {
      await this.#pauseBetweenFaults(random);
      if (this.#isEnding) return;
      if (left.length === 0) left = [...names];
      const [kind] = left.splice(random.below(left.length), 1) as [string];
      const t = nowNs();
      try {
        const wasDone = await allFaults[kind]!(targets);
        if (wasDone !== false) this.#recorder.write({ e: "fault", kind, until: nowNs() }, t);
      } catch (error) {
        this.#failure ??= `the fault ${kind} failed: ${(error as Error).message}`;
        return;
      }
    }
  }

  async #pauseBetweenFaults(random: Random): Promise<void> {
    const { faultPauseMs, faultOperations = 0 } = this.#options;
    const dueAt = this.#files.answers + faultOperations;
    const endsAt = performance.now() + longestPauseMs;
    await delay(20 + random.below(faultPauseMs));
    while (!this.#isEnding && this.#files.answers < dueAt && performance.now() < endsAt) {
      await delay(50);
    }
  }

  #targets(random: Random): FaultTargets {
    return {
      ...{ host: this.#host, network: this.#network, random },
      ...{ recorder: this.#recorder, locks: this.#locks, unlinked: this.#unlinked },
      controllers: () => this.#pidsOf("local", "ssh"),
      killController: () => this.#killController(),
      sshdSessions: () => this.#sshd?.sessions().map(({ pid }) => pid) ?? [],
    };
  }

  #pidsOf(...kinds: Worker["kind"][]): number[] {
    return [...this.#workers].filter(({ kind }) => kinds.includes(kind))
      .map(({ child }) => child.pid!);
  }

  /** Kills a process of local clients: all their sessions end with it. */
  async #killController(): Promise<boolean> {
    const locals = [...this.#workers].filter(({ kind }) => kind === "local");
    const worker = locals[this.#random.below(Math.max(1, locals.length))];
    if (worker === undefined || !await freeze(worker.child.pid!)) return false;
    this.#placeBystander(worker);
    for (const c of worker.config.clients) {
      this.#recorder.write({ e: "end", c, how: "controller-killed" });
    }
    signalPid(worker.child.pid!, "SIGKILL");
    await worker.exit;
    this.#startLocal("local");
    return true;
  }

  /** Another user's process that claims by its environment to belong to the session that ends. */
  #placeBystander({ config }: Worker): void {
    if (process.getuid?.() !== 0 || this.#bystanders.length >= 20) return;
    const held = heldToken(this.#files.readOne(config.log));
    if (held === undefined) return;
    const env = { SSHLOCK_TOKEN: String(held) };
    const options = { stdio: "ignore", env, uid: strangerUid, gid: strangerUid } as const;
    this.#bystanders.push(spawn("sleep", ["infinity"], options));
  }

  /** A controller wants to be stopped, or cut off, and cannot do it to itself. */
  async #endController({ child, config }: Worker, line: string): Promise<void> {
    const ms = silenceMs + this.#random.below(silenceMs);
    const [c] = config.clients as [string];
    if (line === "controller-stopped") {
      this.#recorder.write({ e: "end", c, how: line });
      if (this.#options.staysCut === true) this.#cut.add(child.pid!);
      if (!signalPid(child.pid!, "SIGSTOP") || this.#cut.has(child.pid!)) return;
      await delay(ms);
      signalPid(child.pid!, "SIGCONT");
    } else if (line === "cut-off") {
      if (this.#isEnding) return;
      this.#network?.setLink(false);
      await delay(ms);
      // At the end the cable is put in for all.
      if (!this.#isEnding && this.#options.staysCut !== true) this.#network?.setLink(true);
    }
  }

  // ---- end -------------------------------------------------------------------------------------

  async #untilEnough(): Promise<void> {
    const { operations, minMs, deadlineMs, stopsAtViolation, endsAtStall, say } = this.#options;
    const stall = endsAtStall === true ? new Stall() : undefined;
    for (let lookedAt = 0;;) {
      await delay(lookMs);
      const elapsedMs = performance.now() - this.#startedAt;
      if (this.#failure !== undefined) return;
      this.#files.read();
      const seen = stopsAtViolation ? this.#look() : undefined;
      if (seen !== undefined && this.#isFinding(seen)) {
        // The files are read one after the other: what proves it may have been written meanwhile.
        await delay(lookMs);
        const verdict = this.#look();
        if (this.#isFinding(verdict)) {
          this.#found = verdict;
          return;
        }
      }
      if (seen !== undefined && this.#isEnough(seen)) return;
      if (seen !== undefined && stall?.isThere(seen) === true) {
        this.#isStalled = true;
        return;
      }
      if (this.#files.answers >= operations && elapsedMs >= minMs) return;
      if (elapsedMs > deadlineMs) {
        const isSlow = this.#files.answers >= (this.#options.atLeast ?? operations);
        if (!stopsAtViolation && !isSlow) {
          this.#failure = `too few operations after ${deadlineMs} ms`;
        }
        return;
      }
      if (elapsedMs - lookedAt > 10_000) {
        say?.(`${Math.round(elapsedMs / 1000)} s: ${this.#files.answers} operations`);
        lookedAt = elapsedMs;
      }
    }
  }

  async #endWorkers(): Promise<void> {
    const ending = [...this.#workers].filter(({ child }) => !this.#cut.has(child.pid!));
    if (this.#options.staysCut !== true) this.#network?.setLink(true);
    for (const { child, kind } of ending) {
      signalPid(child.pid!, "SIGCONT");
      child.stdin?.end();
      // They only wait: for a lock that stays taken, or for a host that they cannot reach.
      const waits = kind === "ssh" ? this.#options.staysCut === true : this.#isStalled;
      if (waits && kind !== "tools") signalPid(child.pid!, "SIGKILL");
    }
    for (const worker of ending) {
      const { child, exit } = worker;
      await until(() => child.exitCode !== null || child.signalCode !== null, {
        // A claim of its may wait for a while.
        ...{ deadlineMs: 5_000 + this.#options.endDeadlineMs, what: "the end of a worker" },
      }).catch(() => {
        if (worker.kind !== "ssh") {
          this.#failure ??=
            `a ${worker.kind} worker does not come to its end: a claim or a release ` +
            "is not answered";
        }
        signalPid(child.pid!, "SIGKILL");
      });
      await exit;
    }
    await this.#endShellHolders();
  }

  /** What the shell protocol leaves behind is its known leak, and ours to free. */
  async #endShellHolders(): Promise<void> {
    for (const pid of processesWithLockIn(this.#host.dirs.lockDir)) {
      if (["bash", "flock", "sleep"].includes(readStat(pid)?.comm ?? "")) await killAndConfirm(pid);
    }
  }

  async #checkTheEnd(): Promise<string[]> {
    const { endDeadlineMs, stopsAtViolation: stopsAtFirst } = this.#options;
    const bystanders = this.#bystanders.map(({ pid }) => pid!);
    return await checkTheEnd({
      ...{ host: this.#host, actor: this.#actor[1]!, bystanders },
      ...{ deadlineMs: endDeadlineMs, stopsAtFirst },
    });
  }

  /** For whoever has to find out what went wrong. */
  #keep(isWell: boolean): void {
    const folder = process.env.SSHLOCK_HISTORY_KEEP;
    if (isWell || folder === undefined) return;
    cpSync(this.#history, join(folder, `${this.#options.seed}`), { recursive: true });
    cpSync(join(this.#host.dir, "agent.log"), join(folder, `${this.#options.seed}`, "agent.log"));
  }

  #look(): Verdict {
    return checkHistory(this.#files.read());
  }

  #isEnough({ faults }: Verdict): boolean {
    const { enough } = this.#options;
    return enough !== undefined &&
      Object.entries(enough).every(([kind, count]) => (faults[kind] ?? 0) >= count);
  }

  #isFinding(verdict: Verdict): boolean {
    return !verdict.ok || this.#options.isFinding?.(verdict) === true;
  }
}

/** Notices that nothing is granted any longer, faults or not. */
class Stall {
  #progress = 0;
  #since = performance.now();

  isThere({ answers, faults }: Verdict): boolean {
    const kinds = Object.entries(faults);
    // What ends a session does so under a lock: until then it is held with reason.
    const ends = kinds.filter(([kind]) => kind.startsWith("session:") || kind === "run-killed")
      .reduce((sum, [, count]) => sum + count, 0);
    // Not those who join: an owner may join a lock that stays taken.
    const { granted = 0 } = answers;
    const progress = granted + ends;
    if (progress !== this.#progress) this.#since = performance.now();
    this.#progress = progress;
    return granted > 0 && kinds.length > 0 && performance.now() - this.#since > stallMs;
  }
}

/** The token of a lock that some client has by the end of its log. */
function heldToken(events: readonly HistoryEvent[]): number | undefined {
  const over = new Set(
    events.flatMap((each) =>
      each.e === "release" || each.e === "lost" ? [`${each.c}#${each.n}`] : []
    ),
  );
  const held = events.find((each) => each.e === "granted" && !over.has(`${each.c}#${each.n}`));
  return held?.e === "granted" ? held.token ?? undefined : undefined;
}
