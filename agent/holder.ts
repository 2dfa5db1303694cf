/**
 * Holder processes: started ahead of use, told by one message which lock to take.
 *
 * The lock belongs to the open file description whose descriptor is sent along. The agent keeps its
 * own descriptor of it, so either of the two may die and the lock is still not free.
 *
 * Starting a process is the slow part of a claim; a spare that waits for its order takes it out.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { type ChildProcess, spawn } from "node:child_process";
import type { Duplex } from "node:stream";
import { crashPoint } from "./crash_points.ts";
import {
  AGENT_FD,
  encodeOrder,
  HOLDER_EXIT,
  type Order,
  REPLY,
  SPARE_ARGV0,
} from "./holder/order.ts";
import { sendDescriptor } from "./libc.ts";
import { readStat } from "./proc.ts";
import { RecordCopy } from "./record_copy.ts";

/** Holders of one claim that somebody may kill before they answer: only an attack kills so many. */
const MAX_KILLED = 20;

/** Time for an answer to get out before the next spare is started, in milliseconds. */
const REFILL_AFTER_MS = 1;

/** How an order ended. */
export type OrderOutcome =
  | { kind: "locked" }
  | { kind: "busy" }
  | { kind: "failed"; reason: string; wasKilled: boolean };

/** A process that holds a lock, whoever started it. */
export interface Holder {
  /** The pid. */
  readonly pid: number;
  /** When it started, in clock ticks since boot; 0 when it is not known. */
  readonly startTime: number;
  /** The copy of its lock's record that it keeps; absent where it was started without one. */
  readonly copy: RecordCopy | undefined;
  /** Called when the process ends without having been told to. */
  onDeath: (() => void) | undefined;
  /** Ends the process. */
  kill(): void;
}

/** One holder process. */
export class HolderProcess implements Holder {
  /** Resolved when the process is gone, and every lock of its own with it. */
  readonly ended: Promise<void>;
  /** Called once when the lock is another's and the holder waits in the kernel's queue. */
  onWaiting: (() => void) | undefined;
  /** Called when the process ends without having been told to. */
  onDeath: (() => void) | undefined;
  /** The copy of its lock's record that it keeps. */
  readonly copy: RecordCopy | undefined;

  readonly #child: ChildProcess;
  readonly #socket: Duplex | undefined;
  #exitCode: number | null = null;
  #startError = "unknown error";
  #startTime: number | undefined;
  #isAlive = true;
  #wasKilled = false;
  #settle: ((outcome: OrderOutcome) => void) | undefined;

  /**
   * Starts a process that waits for its order.
   *
   * @param executable The holder's file.
   * @param copy The copy of its lock's record that it is to keep; it is this holder's from now on.
   */
  constructor(executable: string, copy?: RecordCopy) {
    this.copy = copy;
    this.#child = spawn(executable, [], {
      argv0: SPARE_ARGV0,
      // Standard input is RECORD_FD.
      stdio: [copy?.fd ?? "ignore", "ignore", "ignore", "pipe"],
      cwd: "/",
      env: {},
      // A session of its own: no terminal's signals reach it.
      detached: true,
    });
    crashPoint("holder.started");
    this.#socket = this.#child.stdio[AGENT_FD] as unknown as Duplex | undefined;
    this.ended = new Promise((resolve) => this.#watchEnd(resolve));
    // A process that could not be started has no socket; its `error` event tells.
    this.#socket?.on("data", (reply: Buffer) => this.#hear(reply.toString("latin1")));
    this.#socket?.on("error", () => {/* the end of the process tells the same */});
  }

  /** The pid; 0 when the process could not be started. */
  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** When the process was started, as /proc tells it; 0 when that could not be read while it ran. */
  get startTime(): number {
    this.learnStartTime();
    return this.#startTime ?? 0;
  }

  /** Reads the start time, once; where it cannot be read just now, it is tried again. */
  learnStartTime(): void {
    try {
      this.#startTime ??= this.#isAlive ? readStat(this.pid)?.startTime : undefined;
    } catch {
      // No descriptor is left for it.
    }
  }

  /** Whether the process still runs, as far as has been heard. */
  get isAlive(): boolean {
    return this.#isAlive;
  }

  /** Whether {@linkcode kill} was called. */
  get wasKilled(): boolean {
    return this.#wasKilled;
  }

  /**
   * Tells the holder to take a lock. Only once a process.
   *
   * @param order What to lock and how.
   * @param fd A descriptor of the lock file; it stays open here.
   */
  send(order: Order, fd: number): Promise<OrderOutcome> {
    return new Promise((settle) => {
      this.#settle = settle;
      if (!this.#isAlive) return this.#finish(this.#failure());
      // One that could not be started tells so in an event that is still to come.
      if (this.#socket === undefined) return;
      try {
        sendDescriptor(descriptorOf(this.#socket), encodeOrder(order), fd);
        crashPoint("holder.ordered");
      } catch {
        // Nobody is at the other end: the event that tells of its end is still to come.
        this.#child.kill("SIGKILL");
      }
    });
  }

  /** The descriptor of this end of its socket: a tied holder lives as long as anybody has it. */
  get link(): number {
    return this.#socket === undefined ? -1 : descriptorOf(this.#socket);
  }

  /**
   * Lets a holder that was tied to this process outlive it, and closes the link: nothing more is said
   * on it, and the process's end is told by its exit. That is a descriptor less for each held lock.
   */
  untie(): void {
    this.#socket?.end(Buffer.from("k"), () => this.#socket?.destroy());
    crashPoint("holder.untied");
  }

  /** Ends the process. The lock is free at the latest when {@linkcode ended} resolves. */
  kill(): void {
    this.#wasKilled = true;
    if (this.#isAlive) this.#child.kill("SIGKILL");
  }

  #hear(replies: string): void {
    for (const reply of replies) {
      if (reply === REPLY.locked) this.#finish({ kind: "locked" });
      if (reply === REPLY.busy) this.#finish({ kind: "busy" });
      if (reply === REPLY.waiting) this.#wait();
    }
  }

  /** It may wait for long, and thousands may: what is written in the end takes its own descriptor. */
  #wait(): void {
    this.copy?.letGo();
    this.onWaiting?.();
  }

  #finish(outcome: OrderOutcome): void {
    this.#settle?.(outcome);
    this.#settle = undefined;
  }

  #watchEnd(resolve: () => void): void {
    const end = () => {
      if (!this.#isAlive) return;
      this.#isAlive = false;
      this.#finish(this.#failure());
      this.#socket?.destroy();
      this.copy?.letGo();
      resolve();
      if (!this.#wasKilled) this.onDeath?.();
    };
    this.#child.on("exit", (code) => {
      this.#exitCode = code;
      end();
    });
    this.#child.on("error", (error) => {
      this.#startError = error.message;
      if (this.pid === 0) end();
    });
  }

  /** What the end of the process says; its last word may be read only after it. */
  #failure(): OrderOutcome {
    if (this.#exitCode === HOLDER_EXIT.contended) return { kind: "busy" };
    const wasKilled = this.pid !== 0 && this.#exitCode === null;
    return { kind: "failed", reason: this.#describeEnd(), wasKilled };
  }

  #describeEnd(): string {
    if (this.pid === 0) return `its holder could not be started: ${this.#startError}`;
    if (this.#exitCode === HOLDER_EXIT.dupFailed) {
      return "its holder could not use descriptor 999; the limit of open files is below 1000";
    }
    return `its holder ended (${
      this.#exitCode === null ? "by a signal" : `exit ${this.#exitCode}`
    })`;
  }
}

/** Starts holders, and keeps one ready for the next claim where more are to come. */
export class HolderPool {
  readonly #executable: string;
  readonly #keepsSpare: boolean;
  readonly #keepsCopies: boolean;
  #spare: HolderProcess | undefined;
  #isRefilling = false;
  #isClosed = false;

  /**
   * @param executable The holder's file.
   * @param options Whether {@linkcode refill} keeps a spare (default true), and whether holders keep
   * copies of records (default false); that takes the C library.
   */
  constructor(
    executable: string,
    { keepsSpare = true, keepsCopies = false }: {
      keepsSpare?: boolean;
      keepsCopies?: boolean;
    } = {},
  ) {
    this.#executable = executable;
    this.#keepsSpare = keepsSpare;
    this.#keepsCopies = keepsCopies;
  }

  /** The pid of the process that waits for its order, if there is one. */
  get sparePid(): number | undefined {
    return this.#spare?.isAlive === true ? this.#spare.pid : undefined;
  }

  /**
   * Sends an order to a fresh holder. Another is started where one died before it could answer.
   *
   * @param order What to lock and how.
   * @param fd A descriptor of the lock file.
   * @param onWaiting Called when the lock is another's and the holder waits for it.
   * @param onStart Called with each process that gets the order.
   */
  async lock(
    order: Order,
    fd: number,
    { onWaiting, onStart }: {
      onWaiting?: () => void;
      onStart?: (holder: HolderProcess) => void;
    } = {},
  ): Promise<{ holder: HolderProcess; outcome: OrderOutcome }> {
    for (let killed = 1;; killed++) {
      const holder = this.#take();
      holder.onWaiting = onWaiting;
      onStart?.(holder);
      const outcome = await holder.send(order, fd);
      const mayRetry = outcome.kind === "failed" && outcome.wasKilled && killed < MAX_KILLED;
      if (!mayRetry || holder.wasKilled) return { holder, outcome };
    }
  }

  /** Starts a holder at once, so that it is ready when the claim is. */
  prepare(): void {
    this.#spare ??= this.#start();
  }

  /** Starts the next spare, once the answer that the last one went into is out. */
  refill(): void {
    if (!this.#keepsSpare || this.#isRefilling || this.#isClosed) return;
    if (this.sparePid !== undefined) return;
    this.#isRefilling = true;
    setTimeout(() => {
      this.#isRefilling = false;
      if (this.#isClosed || this.sparePid !== undefined) return;
      this.#spare = this.#start();
      // Now that nobody waits for it: the record of its lock will tell it.
      this.#spare.learnStartTime();
    }, REFILL_AFTER_MS);
  }

  /** Ends the spare and starts no more. */
  close(): void {
    this.#isClosed = true;
    this.#spare?.kill();
    this.#spare = undefined;
  }

  #take(): HolderProcess {
    const spare = this.#spare;
    this.#spare = undefined;
    return spare?.isAlive === true ? spare : this.#start();
  }

  #start(): HolderProcess {
    const copy = this.#keepsCopies ? RecordCopy.make() : undefined;
    try {
      return new HolderProcess(this.#executable, copy);
    } catch (error) {
      copy?.letGo();
      throw error;
    }
  }
}

/** The number of a socket's descriptor: `_handle.fd` on Node, Bun and Deno alike, -1 once closed. */
export function descriptorOf(socket: Duplex): number {
  const { _handle: handle } = socket as unknown as { _handle?: { fd?: number } | null };
  return handle?.fd ?? -1;
}
