import { setTimeout as delay } from "node:timers/promises";
import type { Way } from "./history.ts";
import type { Answer, LeanConnection } from "./lean_connection.ts";
import type { Random } from "./random.ts";
import type { Recorder } from "./recorder.ts";

/** What a client that talks to the agent itself is made of. */
export interface AgentClientParts {
  /** Its name, never used again. */
  name: string;
  way: Way;
  owner: string;
  uid: number;
  recorder: Recorder;
  random: Random;
  /** Parameters of `hello` beside owner and resume. */
  hello: Record<string, unknown>;
  /** Connects; `undefined` when nobody is there now. */
  connect(): Promise<LeanConnection | undefined>;
}

/** What a claim asks for. */
export interface Wish {
  name: string;
  shared: boolean;
  waitMs: number;
  onEnd?: "kill" | "drain";
  graceMs?: number;
}

/** A lock that this client was granted. */
export interface Held {
  n: number;
  name: string;
  token: number;
  /** Whether the client has been told that it is lost. */
  isLost: boolean;
}

/** Pause before a lost connection is tried again, in milliseconds. */
const againMs = 10;

/**
 * A client of the agent that keeps its session over the agent's restarts, and records all that it
 * asks and is told.
 */
export class AgentClient {
  readonly #parts: AgentClientParts;
  #connection: LeanConnection | undefined;
  #secret: string | undefined;
  #n = 0;
  #held: Held | undefined;
  #queuedN: number | undefined;
  #isOver = false;
  #connecting: Promise<Record<string, unknown>[]> | undefined;
  /** By token: losses that were told before the grant was read. */
  readonly #lostBefore = new Map<number, string>();

  /**
   * @param parts What it is made of.
   */
  constructor(parts: AgentClientParts) {
    this.#parts = parts;
  }

  /** Claims; `undefined` when refused. Whatever becomes of the connection is dealt with here. */
  async claim(wish: Wish): Promise<Held | undefined> {
    const { name: c, way, owner, uid, recorder } = this.#parts;
    if (this.#connection === undefined) await this.#connect();
    const n = ++this.#n;
    const { name: l, shared, waitMs } = wish;
    recorder.write({ e: "claim", c, n, l, way, owner, uid, shared, waits: waitMs > 0 });
    this.#queuedN = waitMs > 0 ? n : undefined;
    // The agent's log tells the purpose: so its lines can be matched with claims.
    const params = { ...wish, purpose: `${c}#${n}` };
    const answer = await this.#connection!.request("claim", params);
    this.#queuedN = undefined;
    if (answer === undefined) return await this.#findOut(n, l);
    if (answer.error !== undefined) {
      recorder.write({ e: "refused", c, n, code: codeOf(answer) });
      return undefined;
    }
    return this.#note(n, answer.result!, { joined: answer.result!.joined === true });
  }

  /** Gives a lock back, however often the agent has to be asked. */
  async release(held: Held): Promise<void> {
    const { name: c, recorder } = this.#parts;
    const { n, name } = held;
    if (held.isLost) return;
    this.#held = undefined;
    recorder.write({ e: "release", c, n });
    for (;;) {
      // A release that was not answered may have been heard: what a new connection is told decides.
      if (this.#connection === undefined) {
        const locks = await this.#connect();
        if (!locks.some((lock) => lock.name === name)) return;
      }
      const answer = await this.#connection?.request("release", { name });
      if (answer === undefined) continue;
      const code = answer.error === undefined ? {} : { code: codeOf(answer) };
      return recorder.write({ e: "released", c, n, ...code });
    }
  }

  /** Drops the connection, for good. */
  close(): void {
    this.#isOver = true;
    this.#connection?.destroy();
  }

  #note(n: number, result: Record<string, unknown>, extra: { joined?: boolean }): Held {
    const { name: c, recorder } = this.#parts;
    const token = result.token as number;
    const held = { n, name: result.name as string, token, isLost: false };
    this.#held = held;
    // The notification may have come in the same packet as the grant.
    const reason = this.#lostBefore.get(token);
    recorder.write({ e: "granted", c, n, token, ...extra });
    if (reason !== undefined) this.#lose(reason);
    return held;
  }

  /** The connection broke before the answer: the session may have the lock and not know it. */
  async #findOut(n: number, name: string): Promise<Held | undefined> {
    const locks = await this.#connect();
    const lock = locks.find((each) => each.name === name);
    // Whether it joined was in the answer that is lost.
    if (lock !== undefined) return this.#note(n, lock, {});
    const { name: c, recorder } = this.#parts;
    recorder.write({ e: "refused", c, n, code: "connection" });
    return undefined;
  }

  /** Connects until it works, as the same session where that is possible; its locks by then. */
  #connect(): Promise<Record<string, unknown>[]> {
    return this.#connecting ??= this.#reconnect().finally(() => this.#connecting = undefined);
  }

  async #reconnect(): Promise<Record<string, unknown>[]> {
    const { owner, hello } = this.#parts;
    for (;;) {
      const connection = await this.#parts.connect();
      const base = { protocol: 1, client: "history", ...hello };
      const resume = this.#secret;
      const who = resume === undefined ? { owner } : { resume };
      const answer = await connection?.request("hello", { ...base, ...who });
      if (answer?.error !== undefined && resume !== undefined) {
        this.#secret = undefined;
        this.#lose(codeOf(answer));
        connection?.destroy();
        continue;
      }
      if (connection === undefined || answer?.result === undefined) {
        connection?.destroy();
        await delay(againMs);
        continue;
      }
      const { session, locks } = answer.result as {
        session: { secret: string };
        locks: Record<string, unknown>[];
      };
      this.#secret = session.secret;
      this.#keep(connection);
      return locks;
    }
  }

  #keep(connection: LeanConnection): void {
    this.#connection = connection;
    connection.onNotification = (method, params) => {
      const { name: c, recorder } = this.#parts;
      if (method === "queued" && this.#queuedN !== undefined) {
        recorder.write({ e: "queued", c, n: this.#queuedN });
        this.#queuedN = undefined;
      } else if (method === "lost") {
        if (params.token === this.#held?.token) this.#lose(String(params.reason));
        else this.#lostBefore.set(params.token as number, String(params.reason));
      }
    };
    void connection.closed.then(async () => {
      if (this.#connection !== connection) return;
      this.#connection = undefined;
      // A session that has a lock comes back at once, or it would be taken for dead.
      if (this.#held !== undefined && !this.#isOver) await this.#connect();
    });
  }

  #lose(reason: string): void {
    const held = this.#held;
    if (held === undefined) return;
    this.#held = undefined;
    held.isLost = true;
    this.#parts.recorder.write({ e: "lost", c: this.#parts.name, n: held.n, reason });
  }
}

function codeOf(answer: Answer): string {
  return answer.error?.data?.code ?? "unknown";
}
