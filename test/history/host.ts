import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { appendFileSync, chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { type AgentDirs, builtHolder, dirArgs } from "../support/agent_process.ts";
import { type ChildExit, childExit, eachLine } from "../support/child.ts";
import { until } from "../support/events.ts";
import { freeze, killAndConfirm, processesWithLockIn, signalPid } from "../support/processes.ts";
import { findTool, root } from "../support/requires.ts";
import { requires } from "../support/requires.ts";
import { makeLockDir, makeTempDir } from "../support/temp_dir.ts";
import { nowNs, type Recorder } from "./recorder.ts";

/** Lines of the agent's log that go into the history. */
const kept = [
  ...["agent-started", "lock-granted", "lock-ended", "lock-lost"],
  ...["session-ending", "session-ended"],
];

/** Lines of the agent's log that no run may have. */
const complaints = ["internal-error", "server-error"];

/** What a host is made of. */
export interface HostParts {
  /** The agent's argv; paths in it may be relative. */
  agent: string[];
  /** The holder's program; the built one unless told. */
  holder?: string;
  recorder: Recorder;
  /** A descriptor limit for the agent. */
  maxDescriptors?: number;
  /** The grace of claims that give none, in milliseconds; the agent's default unless told. */
  graceMs?: number;
}

/** The folders, the agent in them, and what can be done to it. */
export class Host implements AsyncDisposable {
  readonly dirs: AgentDirs;
  /** For logs and keys. */
  readonly dir: string;
  /** A filesystem of its own, so that it can be filled; `undefined` without root. */
  readonly tmpfs: string | undefined;
  /** Lines of the log that no run may have, as they came. */
  readonly complaints: string[] = [];

  /** Until then (`performance.now()`) the agent must not be killed. */
  mayDieAt = 0;
  readonly #parts: HostParts;
  readonly #remove: () => Promise<void>;
  #child: ChildProcess | undefined;
  #exit: Promise<ChildExit> | undefined;
  #clock = "";
  #config = "";
  #isStarted = false;
  /** Agents that nobody has ended when another one started. */
  readonly #older: ChildProcess[] = [];

  private constructor(
    parts: HostParts,
    dirs: AgentDirs,
    places: { dir: string; tmpfs: string | undefined; remove: () => Promise<void> },
  ) {
    this.#parts = parts;
    this.dirs = dirs;
    this.dir = places.dir;
    this.tmpfs = places.tmpfs;
    this.#remove = places.remove;
  }

  /** Makes the folders and starts the agent. */
  static async start(parts: HostParts): Promise<Host> {
    const [locks, dir] = [await makeLockDir("history"), await makeTempDir("history")];
    // Clients of other users come by.
    for (const path of [locks.path, dir.path]) chmodSync(path, 0o755);
    const tmpfs = mountTmpfs(locks.path);
    const base = (name: string) => join(tmpfs ?? dir.path, name);
    const dirs = {
      ...{ lockDir: base("locks"), runtimeDir: base("run"), stateDir: base("state") },
      socket: join(base("run"), "agent.sock"),
    };
    mkdirSync(dirs.lockDir, { mode: 0o755 });
    mkdirSync(dirs.runtimeDir, { mode: 0o711 });
    mkdirSync(dirs.stateDir, { mode: 0o700 });
    if (tmpfs === undefined) dirs.lockDir = locks.path;
    const remove = async () => {
      for (const pid of processesWithLockIn(dirs.lockDir)) await killAndConfirm(pid);
      if (tmpfs !== undefined) spawnSync("umount", ["--lazy", tmpfs]);
      await Promise.all([locks.remove(), dir.remove()]);
    };
    const host = new Host(parts, dirs, { dir: dir.path, tmpfs, remove });
    host.#clock = join(dir.path, "clock.js");
    writeFileSync(host.#clock, jumpingClock);
    host.#config = join(dir.path, "agent.json");
    const { graceMs } = parts;
    writeFileSync(host.#config, JSON.stringify(graceMs === undefined ? {} : { graceMs }));
    await host.startAgent();
    return host;
  }

  /** The agent's process. */
  get pid(): number {
    return this.#child!.pid!;
  }

  /** Starts the agent, and waits until it can be reached. */
  async startAgent(): Promise<void> {
    const [program, ...args] = this.#command();
    const child = spawn(program!, args, {
      stdio: ["ignore", "ignore", "pipe"],
      // The clock of the process jumps when it is told to, whichever runtime it has.
      env: { ...process.env, BUN_OPTIONS: `--preload ${this.#clock}` },
    });
    this.#child = child;
    this.#exit = childExit(child);
    this.#isStarted = false;
    let ended = false;
    // `close`, so that all that it said has been heard by then.
    child.once("close", () => ended = true);
    eachLine(child.stderr!, (line) => this.#hear(line));
    // Not by a connection: somebody else's agent may listen there.
    await until(() => ended || this.#isStarted, {
      ...{ what: "an agent that has started", intervalMs: 5, deadlineMs: 60_000 },
    });
    if (!this.#isStarted) return await this.#startAgain();
    chmodSync(this.dirs.socket, 0o666);
  }

  /** A bridge that found no agent may have started one in the meantime: it is killed like ours. */
  async #startAgain(): Promise<void> {
    const text = this.complaints.splice(0).join("\n");
    const rival = /locked \(pid (\d+)\)/.exec(text)?.[1];
    if (rival === undefined) throw new Error(`The agent ended at its start: ${text}`);
    await killAndConfirm(Number(rival));
    await this.startAgent();
  }

  /** CPU seconds of the agent that runs now. */
  get cpuSeconds(): number {
    try {
      const fields = readFileSync(`/proc/${this.pid}/stat`, "latin1").split(") ")[1]!.split(" ");
      return (Number(fields[11]) + Number(fields[12])) / 100;
    } catch {
      return 0;
    }
  }

  /**
   * Ends the agent and waits for its end; not while it has what dies with it.
   */
  async endAgent(signal: "SIGKILL" | "SIGTERM"): Promise<void> {
    await delay(Math.max(0, this.mayDieAt - performance.now()));
    // Stamped just before: claims that wait at this agent lose their place.
    const kind = signal === "SIGKILL" ? "agent-killed" : "agent-restarted";
    this.#parts.recorder.write({ e: "fault", kind });
    signalPid(this.pid, signal);
    await this.#exit;
  }

  /**
   * Stops the agent, removes its run file, starts another, and lets the first one go on where it has
   * not been ended by then.
   *
   * @param stoppedMs Time that the first one is stopped beside the other then, in milliseconds.
   */
  async supersedeAgent(stoppedMs: number): Promise<void> {
    await delay(Math.max(0, this.mayDieAt - performance.now()));
    const [older, exit] = [this.#child!, this.#exit!];
    this.#parts.recorder.write({ e: "fault", kind: "agent-superseded" });
    await freeze(older.pid!);
    rmSync(join(this.dirs.runtimeDir, "agent.lock"));
    await this.startAgent();
    await Promise.race([exit, delay(stoppedMs)]);
    if (older.exitCode !== null || older.signalCode !== null) return;
    this.#older.push(older);
    signalPid(older.pid!, "SIGCONT");
  }

  /** Sends the agent a signal. */
  signalAgent(signal: NodeJS.Signals): void {
    signalPid(this.pid, signal);
  }

  /** Ends the agent and the holders and removes the folders. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child!.exitCode === null && this.#child!.signalCode === null) {
      signalPid(this.pid, "SIGKILL");
      await this.#exit;
    }
    for (const { pid } of this.#older) await killAndConfirm(pid!);
    await this.#remove();
  }

  #command(): string[] {
    const { agent, holder = builtHolder(), maxDescriptors } = this.#parts;
    const words = absoluteWords(agent);
    const isDeno = words[0]!.endsWith("/deno");
    const preload = isDeno ? ["--preload", this.#clock] : [];
    const runtime = isDeno ? [...words.slice(0, 2), ...preload, ...words.slice(2)] : words;
    const limit = maxDescriptors === undefined
      ? []
      : [findTool("prlimit")!, `--nofile=${maxDescriptors}:${maxDescriptors}`, "--"];
    const args = ["serve", ...dirArgs(this.dirs), "--holder", resolve(holder)];
    args.push("--config", this.#config);
    return [...limit, ...runtime, ...args];
  }

  #hear(line: string): void {
    const t = nowNs();
    appendFileSync(join(this.dir, "agent.log"), `${line}\n`);
    let fields: Record<string, unknown>;
    try {
      fields = JSON.parse(line) as Record<string, unknown>;
    } catch {
      this.complaints.push(line);
      return;
    }
    const event = String(fields.event);
    if (event === "agent-started") this.#isStarted = true;
    if (complaints.includes(event)) this.complaints.push(line);
    if (!kept.includes(event)) return;
    const { purpose, token, session } = fields as {
      purpose?: string;
      token?: number;
      session?: string;
    };
    this.#parts.recorder.write({
      ...{ e: "agent", event },
      ...(purpose === undefined ? {} : { claim: purpose }),
      ...(token === undefined ? {} : { token }),
      ...(session === undefined ? {} : { session }),
    }, t);
  }
}

/** A command line whose program and files can be found from everywhere. */
export function absoluteWords(words: readonly string[]): string[] {
  return words.map((word, index) => {
    if (word.includes("/")) return resolve(word);
    return index === 0 ? findTool(word) ?? word : word;
  });
}

/** SIGUSR2 sets the clock of the process forward, SIGWINCH back (SIGUSR1 is the debugger's); the monotonic one stays. */
const jumpingClock = `
const now = Date.now.bind(Date);
let offset = 0;
Date.now = () => now() + offset;
process.on("SIGUSR2", () => { offset += 90_000_000; });
process.on("SIGWINCH", () => { offset -= 180_000_000; });
`;

function mountTmpfs(path: string): string | undefined {
  if (requires(root, "mount") !== undefined) return undefined;
  const options = "size=16m,nr_inodes=2000,mode=0755";
  const { status } = spawnSync("mount", ["-t", "tmpfs", "-o", options, "sshlock-history", path]);
  return status === 0 ? path : undefined;
}
