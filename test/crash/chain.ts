import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
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

/** How a chain's agents end. */
export type Ending = "kill" | "stop";

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
  /** How long is waited for what has to come, in milliseconds. */
  readonly #patienceMs: number;
  #agent!: CrashAgent;
  #spawned: CrashAgent | undefined;
  readonly #living = new Set<CrashAgent>();
  #residents: TrackedSession[] = [];
  #sessions: TrackedSession[] = [];
  #mortal: MortalSession | undefined;
  #highest = 0;
  #round = 0;

  private constructor(
    place: Place,
    argv: string[],
    scenario: Scenario,
    ending: Ending,
    patienceMs: number,
  ) {
    this.#patienceMs = patienceMs;
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
    patienceMs = 10_000,
  ): Promise<Chain> {
    const chain = new Chain(await makePlace(), argv, scenario, ending, patienceMs);
    chain.#agent = await chain.#start();
    for (const _ of [1, 2]) {
      const session = await TrackedSession.open(chain.place.socket, RESIDENT);
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
    const session = await TrackedSession.open(this.place.socket, owner);
    this.#sessions.push(session);
    return session;
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
    await this.#agent.events.waitFor(({ event }) => event === "lock-parked");
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
    this.#checkKernel();
    this.arm();
    const starting = this.#start(this.#round);
    this.#agent = this.#spawned as CrashAgent;
    if (this.#ending === "kill") await starting;
  }

  async #replaceKilled(crashed: CrashAgent): Promise<void> {
    const { signal } = await within(crashed.exit, { what: `the crash of ${this.#describe()}` });
    assert.equal(signal, "SIGKILL", JSON.stringify(crashed.events.all.slice(-5)));
    setCrashing(this.place, false);
    await this.#settled();
    this.#checkKernel();
    this.#agent = await this.#start();
    this.#assertServes();
  }

  /** A stopped agent goes on while its successor starts, and must be dead once that one serves. */
  async #replaceStopped(stopped: CrashAgent): Promise<void> {
    await until(() => readStat(stopped.pid)?.state === "T" || stopped.isOver, {
      what: `the stop of ${this.#describe()}`,
      intervalMs: 1,
    });
    assert.equal(stopped.isOver, false, JSON.stringify(stopped.events.all.slice(-5)));
    setCrashing(this.place, false);
    this.#checkKernel();
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
    const log = this.#agent.events.all.map((event) => JSON.stringify(event)).join("\n");
    assert.equal(this.#agent.isOver, false, `the next agent serves\n${log}`);
  }

  get #all(): TrackedSession[] {
    return [...this.#residents, ...this.#sessions];
  }

  async #settled(): Promise<void> {
    for (const session of this.#all) await session.settled();
  }

  // ---- checks ----------------------------------------------------------------------------------

  /** What a session was told it has is locked, whether an agent lives or not. */
  #checkKernel(): void {
    for (const session of this.#all) {
      for (const [name, known] of session.locks) {
        if (known.kind !== "granted") continue;
        assert.ok(isLocked(this.place, name), `${name} of ${session.owner} is locked`);
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
    this.#checkKernel();
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
    await until(() => {
      const isFree = !isLocked(this.place, WORK);
      if (isFree) {
        assert.equal(mortal.hasLeftover, false, "no lock is free before its leftovers end");
      }
      return isFree;
    }, { what: "the end of the session that has died", intervalMs: 2 });
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
    const next = await TrackedSession.open(this.place.socket, "next");
    this.#newToken((await next.claim(WORK, this.#patienceMs)).token);
    await next.release(WORK);
    await next.close();
  }

  #newToken(token: number): void {
    assert.ok(token > this.#highest, `tokens rise: ${token} after ${this.#highest}`);
    this.#highest = token;
  }

  async #probe(name: string, expected: "contended" | "free"): Promise<void> {
    const args = ["--nonblock", "--conflict-exit-code", "9", lockPath(this.place.lockDir, name)];
    const code = await run("flock", [...args, "true"]).then(() => 0, ({ code }) => code);
    assert.equal(code === 9 ? "contended" : code === 0 ? "free" : code, expected, name);
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
    await until(() => readdirSync(folder).length === 0, { what: `nothing in ${folder}` });
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

/** What the kernel says; it needs no process, and disturbs nobody. @see proc(5), /proc/locks */
function isLocked(place: Place, name: string): boolean {
  const { ino, dev } = statSync(lockPath(place.lockDir, name));
  const device = [(dev >> 8) & 0xfff, dev & 0xff].map((part) => part.toString(16).padStart(2, "0"));
  return readFileSync("/proc/locks", "latin1").includes(` ${device.join(":")}:${ino} `);
}
