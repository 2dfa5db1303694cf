import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { until, within } from "../support/events.ts";
import { isAlive, readStat, signalPid } from "../support/processes.ts";
import { lockPath } from "../support/shell_lock.ts";
import {
  type CrashAgent,
  makePlace,
  type Place,
  setCrashing,
  startCrashAgent,
} from "./crash_agent.ts";
import { MORTAL, MortalSession } from "./mortal_session.ts";
import { TrackedSession } from "./tracked_session.ts";

/** The lock that two sessions of one owner have all the time. */
const KEPT = "kept";

/** The lock that each round claims anew. */
export const WORK = "work";

const RESIDENT = "resident";

/** Rounds between two in which flock(1) tries to get what is held. */
const PROBE_EVERY = 5;

/** Against hanging, in milliseconds: a loaded machine may take so long for what takes a moment. */
const STALL_MS = 90_000;

/** A silence limit that no round reaches, in milliseconds. */
const NO_SILENCE_MS = 300_000;

/** How a chain's agents end. */
export type Ending = "kill" | "stop";

/** What may differ between chains of one scenario. */
export interface ChainOptions {
  /** How long is waited for what a broken agent never does, in milliseconds. */
  patienceMs?: number;
  /** How long an agent stays stopped before there is another, in milliseconds. */
  stoppedMs?: number;
  /** The number of the round before the first: it decides which of several steps or instants is hit. */
  roundsBefore?: number;
}

/** What leads to a crash point. */
export interface Scenario {
  /** What the test is called. */
  readonly name: string;
  /** `POINT:COUNT` for the agents of a round; absent: the round kills its agent from outside. */
  crashAt?(round: number): string;
  /** The point is one of an agent's start: another agent is started, and crashes in its start. */
  readonly inStart?: boolean;
  /** Does what leads there; it calls `arm` right before. */
  drive(chain: Chain): Promise<void>;
}

/**
 * Agents in a row on the same folders. Each is made to crash and is followed by the next, which has to
 * be right about every session before it is made to crash in turn.
 */
export class Chain implements AsyncDisposable {
  readonly place: Place;
  readonly #argv: string[];
  readonly #scenario: Scenario;
  readonly #ending: Ending;
  readonly #patienceMs: number;
  readonly #stoppedMs: number;
  #agent!: CrashAgent;
  /** The agent that the round began with. */
  #before!: CrashAgent;
  #spawned: CrashAgent | undefined;
  readonly #living = new Set<CrashAgent>();
  #residents: TrackedSession[] = [];
  #sessions: TrackedSession[] = [];
  #mortal: MortalSession | undefined;
  #highest = 0;
  #round: number;

  private constructor(
    place: Place,
    argv: string[],
    scenario: Scenario,
    ending: Ending,
    { patienceMs = STALL_MS, stoppedMs = 0, roundsBefore = 0 }: ChainOptions,
  ) {
    this.#patienceMs = patienceMs;
    this.#stoppedMs = stoppedMs;
    this.#round = roundsBefore;
    this.place = place;
    this.#argv = argv;
    this.#scenario = scenario;
    this.#ending = ending;
  }

  /** Starts the first agent; two sessions of one owner share a lock from then on. */
  static async start(
    argv: string[],
    scenario: Scenario,
    ending: Ending,
    options: ChainOptions = {},
  ): Promise<Chain> {
    const chain = new Chain(await makePlace(), argv, scenario, ending, options);
    chain.#agent = await chain.#start();
    for (const _ of [1, 2]) {
      const session = await chain.#open(RESIDENT);
      await session.claim(KEPT);
      chain.#residents.push(session);
    }
    chain.#highest = tokenOf(chain.#residents[0]!, KEPT);
    return chain;
  }

  // ---- for scenarios ---------------------------------------------------------------------------

  /** The agent that runs. */
  get agentPid(): number {
    return this.#agent.pid;
  }

  /** A session of the round. */
  async session(owner: string): Promise<TrackedSession> {
    const session = await this.#open(owner);
    this.#sessions.push(session);
    return session;
  }

  /**
   * An agent that is stopped for long is so for longer than the silence limit of its sessions; but one
   * that is stopped in its start cannot have heard of them, and would be right to end them then.
   */
  #open(owner: string): Promise<TrackedSession> {
    const isShort = this.#stoppedMs > 0 && this.#scenario.inStart !== true;
    return TrackedSession.open(
      this.place.socket,
      owner,
      isShort ? 0.8 * this.#stoppedMs : NO_SILENCE_MS,
    );
  }

  /** Another session of the owner that has the kept lock. */
  joining(): Promise<TrackedSession> {
    return this.session(RESIDENT);
  }

  /** A session that is a process of its own; it has claimed the round's lock. */
  async mortal(parkMs = 0): Promise<MortalSession> {
    this.#mortal = await MortalSession.open(this.place.socket, WORK, parkMs);
    this.#newToken(this.#mortal.token);
    return this.#mortal;
  }

  /** The owner of a session that has died comes back for the lock that is reserved for it. */
  async successor(): Promise<TrackedSession> {
    await this.#agent.events.waitFor(({ event }) => event === "lock-parked", {
      deadlineMs: STALL_MS,
    });
    await this.#mortal?.[Symbol.asyncDispose]();
    this.#mortal = undefined;
    return await this.session(MORTAL);
  }

  /** One of the sessions that live all the time gets another connection. */
  resumeResident(): void {
    void this.#residents[0]!.resume(this.place.socket).catch(() => {});
  }

  /** From now on the agent crashes when it comes to the point. */
  arm(): void {
    setCrashing(this.place, true);
  }

  // ---- a round ---------------------------------------------------------------------------------

  /** Makes the agent crash, starts the next, and checks all that was promised. */
  async round(): Promise<void> {
    this.#round++;
    this.#before = this.#agent;
    try {
      await this.#crashAndCheck();
    } catch (error) {
      throw new Error(`A round failed${this.#logs()}`, { cause: error });
    }
  }

  async #crashAndCheck(): Promise<void> {
    await this.#scenario.drive(this);
    if (this.#scenario.inStart === true) await this.#crashInStart();
    const crashed = this.#agent;
    if (this.#ending === "stop") await this.#replaceStopped(crashed);
    else await this.#replaceKilled(crashed);
    await this.#checkSessions();
    await this.#checkMortal();
    await this.#checkFree();
  }

  #start(round = this.#round + 1): Promise<CrashAgent> {
    const crashAt = this.#scenario.crashAt?.(round) ?? "";
    return startCrashAgent(
      this.#argv,
      this.place,
      this.#ending === "stop" ? `${crashAt}:stop` : crashAt,
      (agent) => {
        this.#spawned = agent;
        this.#living.add(agent);
        void agent.exit.then(() => this.#living.delete(agent));
      },
    );
  }

  /** The agent is killed from outside, and the one that follows crashes while it starts. */
  async #crashInStart(): Promise<void> {
    signalPid(this.#agent.pid, "SIGKILL");
    await this.#agent.exit;
    await this.#checkKernel();
    this.arm();
    const starting = this.#start(this.#round);
    this.#agent = this.#spawned as CrashAgent;
    if (this.#ending === "kill") await starting;
  }

  async #replaceKilled(crashed: CrashAgent): Promise<void> {
    const { signal } = await within(crashed.exit, {
      what: `the crash of ${this.#describe()}`,
      deadlineMs: STALL_MS,
    });
    assert.equal(signal, "SIGKILL");
    setCrashing(this.place, false);
    await this.#settled();
    await this.#checkKernel();
    this.#agent = await this.#start();
    this.#assertServes();
  }

  /** A stopped agent goes on while its successor starts, and must be dead once that one serves. */
  async #replaceStopped(stopped: CrashAgent): Promise<void> {
    await until(() => readStat(stopped.pid)?.state === "T" || stopped.isOver, {
      what: `the stop of ${this.#describe()}`,
      deadlineMs: STALL_MS,
      intervalMs: 1,
    });
    assert.equal(stopped.isOver, false);
    setCrashing(this.place, false);
    await delay(this.#stoppedMs);
    await this.#checkKernel();
    rmSync(join(this.place.runtimeDir, "agent.lock"));
    const starting = this.#start();
    // At another instant of the start each time: before it looks, after it looked, never.
    const timer = setTimeout(() => signalPid(stopped.pid, "SIGCONT"), 3 * (this.#round % 12));
    this.#agent = await starting;
    this.#assertServes();
    assert.equal(isAlive(stopped.pid), false, "the older generation is dead once the next serves");
    clearTimeout(timer);
    await this.#settled();
    await stopped.exit;
  }

  #describe(): string {
    return `"${this.#scenario.name}" in round ${this.#round}`;
  }

  #assertServes(): void {
    assert.equal(this.#agent.isOver, false, "the next agent serves");
  }

  /** The ends of the logs of the round's agents. */
  #logs(): string {
    const agents = new Set([this.#before, this.#agent]);
    const logs = [...agents].map(({ pid, events }) =>
      [`agent ${pid}:`, ...events.all.slice(-20).map((event) => JSON.stringify(event))].join("\n  ")
    );
    return `\n${this.#describe()}\n${logs.join("\n")}`;
  }

  get #all(): TrackedSession[] {
    return [...this.#residents, ...this.#sessions];
  }

  async #settled(): Promise<void> {
    for (const session of this.#all) await session.settled();
  }

  // ---- checks ----------------------------------------------------------------------------------

  /** What a session was told it has is locked, whether an agent lives or not. */
  async #checkKernel(): Promise<void> {
    for (const session of this.#all) {
      for (const [name, known] of session.locks) {
        if (known.kind !== "granted") continue;
        assert.ok(await isLocked(this.place, name), `${name} of ${session.owner} is locked`);
      }
    }
  }

  async #checkSessions(): Promise<void> {
    for (const session of this.#all) {
      const found = await session.resume(this.place.socket);
      for (const [name, known] of session.locks) {
        const lock = found?.find((lock) => lock.name === name);
        if (known.kind !== "granted") continue;
        assert.equal(lock?.token, known.token, `${session.owner} still has ${name}`);
      }
      for (const { name, token } of found ?? []) {
        const known = session.locks.get(name);
        assert.notEqual(known, undefined, `${session.owner} has no lock that it did not ask for`);
        if (known?.kind === "asked" && name === WORK) this.#newToken(token);
        if (name === KEPT) assert.equal(token, tokenOf(this.#residents[0]!, KEPT));
      }
      session.believe(found ?? []);
    }
    await this.#checkKernel();
    const owners = this.#all.filter((session) => session.locks.has(WORK)).map((s) => s.owner);
    assert.ok(owners.length <= 1, `one owner at most: ${owners}`);
    // The kernel's own table says it each time; a process that tries costs as much as half a start.
    if (this.#round % PROBE_EVERY !== 0) return;
    await this.#probe(KEPT, "contended");
    if (owners.length === 1) await this.#probe(WORK, "contended");
  }

  /** The session that has died meanwhile is ended: its lock is free once its processes are gone. */
  async #checkMortal(): Promise<void> {
    const mortal = this.#mortal;
    if (mortal === undefined) return;
    await until(async () => {
      const isFree = !await isLocked(this.place, WORK);
      if (isFree) {
        assert.equal(mortal.hasLeftover, false, "no lock is free before its leftovers end");
      }
      return isFree;
    }, { what: "the end of the session that has died", deadlineMs: STALL_MS });
    await mortal[Symbol.asyncDispose]();
    this.#mortal = undefined;
  }

  /** What nobody has any more is free, and the token of the next claim is higher than all before. */
  async #checkFree(): Promise<void> {
    for (const session of this.#sessions) {
      for (const name of [...session.locks.keys()]) await session.release(name);
      await session.close();
    }
    this.#sessions = [];
    const next = await this.#open("next");
    this.#newToken((await next.claim(WORK, this.#patienceMs)).token);
    await next.release(WORK);
    await next.close();
  }

  #newToken(token: number): void {
    assert.ok(token > this.#highest, `tokens rise: ${token} after ${this.#highest}`);
    this.#highest = token;
  }

  async #probe(name: string, expected: "contended" | "free"): Promise<void> {
    assert.equal(await probe(this.place, name), expected, name);
  }

  /** Gives everything back: nothing may be left. */
  async finish(): Promise<void> {
    for (const session of this.#residents) await session.release(KEPT);
    for (const session of this.#residents) await session.close();
    // What a crashed agent has left in the folder goes with the start of the next at the latest.
    for (const _ of ["this one", "the next"]) {
      signalPid(this.#agent.pid, "SIGTERM");
      assert.equal((await this.#agent.exit).code, 0);
      this.#agent = await this.#start();
    }
    const folder = join(this.place.runtimeDir, "locks");
    await until(() => readdirSync(folder).length === 0, {
      what: `nothing in ${folder}`,
      deadlineMs: this.#patienceMs,
    });
    signalPid(this.#agent.pid, "SIGTERM");
    await this.#agent.exit;
    await until(() => this.place.holders().length === 0, {
      what: "the end of all holders",
      deadlineMs: this.#patienceMs,
    });
    assert.equal(existsSync(this.place.socket), false);
    for (const name of [KEPT, WORK]) await this.#probe(name, "free");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    setCrashing(this.place, false);
    for (const agent of this.#living) {
      signalPid(agent.pid, "SIGKILL");
      await agent.exit;
    }
    await this.#mortal?.[Symbol.asyncDispose]();
    for (const session of this.#all) await session.close();
    await this.place.remove();
  }
}

const run = promisify(execFile);

function tokenOf(session: TrackedSession, name: string): number {
  const known = session.locks.get(name);
  assert.ok(known?.kind === "granted");
  return known.token;
}

/**
 * What the kernel's table says: to read it disturbs nobody, and costs no process. It is given out a
 * page at a time, so a line may be left out while other locks of the machine come and go: what it does
 * not show is asked of the kernel in another way.
 *
 * @see proc(5), /proc/locks
 */
async function isLocked(place: Place, name: string): Promise<boolean> {
  const { ino, dev } = statSync(lockPath(place.lockDir, name));
  const device = [(dev >> 8) & 0xfff, dev & 0xff].map((part) => part.toString(16).padStart(2, "0"));
  const isListed = readFileSync("/proc/locks", "latin1").includes(` ${device.join(":")}:${ino} `);
  return isListed || await probe(place, name) === "contended";
}

/** What flock(1) comes to. */
async function probe(place: Place, name: string): Promise<"contended" | "free"> {
  const args = ["--nonblock", "--conflict-exit-code", "9", lockPath(place.lockDir, name), "true"];
  const code = await run("flock", args).then(() => 0, ({ code }) => code);
  assert.ok(code === 0 || code === 9, `flock(1) on ${name} exits ${code}`);
  return code === 9 ? "contended" : "free";
}
