/**
 * The locks of a host through its agent.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";

import { PROTOCOL_VERSION } from "../protocol/limits.ts";
import {
  type ChangeParams,
  type ClaimParams,
  type ClaimResult,
  describeMs,
  type HelloParams,
  type HelloResult,
  lossIn,
  type LostParams,
  type ProcessFacts,
  type ProcessSelection,
  type QueuedParams,
  type ReleaseResult,
  type StatusParams,
  type StatusResult,
  type TakeoverNotice,
} from "../protocol/messages.ts";
import { readAllPages } from "../protocol/status_pages.ts";
import { VERSION } from "../protocol/version.ts";
import { WireError } from "../protocol/wire_error.ts";
import { AgentClient, type Link } from "./agent_client.ts";
import { within } from "./deadline.ts";
import { AgentError, ProtocolError } from "./errors.ts";
import { Heartbeat } from "./heartbeat.ts";
import { ClaimTime } from "./claim_time.ts";
import type { ClaimWatch, Grant, LockService, LockWatch, Loss } from "./lock_service.ts";
import type { Way } from "./way.ts";

/** Pause between two tries to reach the agent again, in milliseconds. */
const RESUME_AGAIN_MS = 100;

/** What a service needs of its connection. */
export interface Reconnect {
  /** Opens another link by the same way. */
  open(): Promise<Link>;
  /**
   * Called when the session goes on over another link, with the cause. It is a new session where the
   * agent knew nothing of the last one: then claims that wait are made again, and nothing was held.
   */
  onResumed(detail: string, isNew: boolean): void;
  /**
   * Called when the agent was silent for too long. It ends the SSH session itself soon, so nothing may
   * be done through it any more.
   */
  onGiveUp(): void;
}

/** How a session presents itself to an agent. */
export interface Greeting {
  /** The identity that claims are made under. */
  owner?: string | undefined;
  /** The silence limit to ask for, in milliseconds. */
  silenceMs?: number | undefined;
}

/** A connection to an agent and what is held through it. */
export class AgentService implements LockService {
  readonly way: Way;
  readonly reduced: readonly string[] = [];
  readonly proven: Promise<void>;
  readonly closed: Promise<string>;
  readonly #reconnect: Reconnect;
  readonly #greeting: Partial<HelloParams>;
  readonly #heartbeat: Heartbeat;
  readonly #who = { protocol: PROTOCOL_VERSION, client: `sshlock/${VERSION}` };
  #client: AgentClient;
  #hello: HelloResult | undefined;
  #resuming: Promise<void> | undefined;
  #isClosed = false;
  #resolveClosed!: (detail: string) => void;
  /** Claims that wait and locks that are held, by name. */
  readonly #watches = new Map<string, ClaimWatch>();
  /** Locks that are held: the rest of the watches are claims that wait. */
  readonly #held = new Set<string>();
  /** Locks whose claim is not answered: if the link is lost, the agent may have them as ours. */
  readonly #inDoubt = new Set<string>();
  /** Those of them whose claim waits, and goes on when the link is lost. */
  readonly #waiting = new Set<string>();
  /** What such a claim had been granted without a word, as it was told when the session was resumed. */
  readonly #kept = new Map<string, ClaimResult>();

  /**
   * @param way The way.
   * @param link A fresh link to the agent.
   * @param greeting How to present the session.
   * @param reconnect What to do when the link is lost.
   */
  constructor(way: Way, link: Link, greeting: Greeting, reconnect: Reconnect) {
    this.way = way;
    this.#reconnect = reconnect;
    this.closed = new Promise((resolve) => this.#resolveClosed = resolve);
    this.#heartbeat = new Heartbeat({
      ping: () => this.#client.request("ping", {}).catch(() => {}),
      giveUp: (silentMs) => this.#giveUp(silentMs),
    });
    this.#greeting = {
      ...(greeting.owner === undefined ? {} : { owner: greeting.owner }),
      ...(greeting.silenceMs === undefined ? {} : { silenceMs: greeting.silenceMs }),
    };
    this.#client = this.#connect(link, this.#greeting);
    const first = this.#client;
    this.proven = first.hello.then((answer) => this.#accept(answer));
    this.proven.catch((error) => first.close(error));
  }

  get isOver(): boolean {
    return this.#isClosed || this.#client.isOver && this.#resuming === undefined;
  }

  async claim(params: ClaimParams, watch: ClaimWatch): Promise<Grant> {
    const { name } = params;
    if (this.#resuming !== undefined) await this.#resuming;
    if (this.#watches.has(name)) {
      throw new AgentError(
        "already-claimed",
        `Cannot claim "${name}": this session has claimed it`,
      );
    }
    this.#watches.set(name, watch);
    this.#inDoubt.add(name);
    this.#heartbeat.start();
    const giveClaimUp = () => this.#client.request("release", { name }).catch(() => {});
    try {
      const answer = this.#waitFor(params, watch.signal);
      watch.signal?.addEventListener("abort", giveClaimUp, { once: true });
      const result = await answer;
      this.#inDoubt.delete(name);
      await this.proven;
      watch.signal?.throwIfAborted();
      // Its loss may have come in the same packet as its grant.
      if (this.#watches.get(name) === watch) this.#held.add(name);
      return { ...result, release: () => this.#release(name) };
    } catch (error) {
      if (error instanceof WireError) this.#inDoubt.delete(name);
      this.#forget(name);
      watch.signal?.throwIfAborted();
      // Where `hello` was refused, that is the cause and this is what followed.
      await this.proven;
      throw error;
    } finally {
      watch.signal?.removeEventListener("abort", giveClaimUp);
    }
  }

  /** Claims until it is answered or its time is over: a claim that waits goes on at the next agent. */
  async #waitFor(params: ClaimParams, signal: AbortSignal | undefined): Promise<ClaimResult> {
    const { name } = params;
    const time = new ClaimTime(params);
    if (time.mayWait) this.#waiting.add(name);
    try {
      for (let isRepeated = false;; isRepeated = true) {
        const kept = this.#kept.get(name);
        if (kept !== undefined) return time.granted(kept);
        const client = this.#client;
        try {
          const result = await client.request("claim", isRepeated ? time.left : params);
          return isRepeated ? time.granted(result as ClaimResult) : result as ClaimResult;
        } catch (error) {
          if (error instanceof WireError) throw isRepeated ? time.refused(error) : error;
          const { leftMs } = time;
          if (!time.mayWait || !await isSoon(this.#goesOnAfter(client), leftMs, signal)) {
            throw error;
          }
        }
        this.#inDoubt.add(name);
      }
    } finally {
      this.#waiting.delete(name);
      this.#kept.delete(name);
    }
  }

  async status(name?: string): Promise<StatusResult> {
    const ask = async (params: StatusParams) =>
      await this.#client.request("status", { ...params }) as StatusResult;
    if (this.#resuming !== undefined) await this.#resuming;
    return await readAllPages(ask, name);
  }

  /** Over a link of its own: the agent cuts off who does not read, and that must not cost a lock. */
  async watch(
    name: string | undefined,
    onChange: (change: ChangeParams) => void,
  ): Promise<LockWatch> {
    if (this.#resuming !== undefined) await this.#resuming;
    await this.#client.request("ping", {});
    const client = new AgentClient(await this.#reconnect.open(), this.#who, {
      onArrival: () => {},
      onNotification: (method, params) => {
        if (method === "change") onChange(params as unknown as ChangeParams);
      },
      onAnswer: () => {},
    });
    const close = () => client.close(new AgentError("link-closed", "Cannot go on: it was closed"));
    const ask = (method: string) => async (params: StatusParams) =>
      await client.request(method, params) as StatusResult;
    try {
      const page = await ask("watch")(name === undefined ? {} : { name });
      const first = await readAllPages(ask("status"), name, page);
      return { first, closed: client.closed, close };
    } catch (error) {
      close();
      throw error;
    }
  }

  async breakLock(name: string, reason: string): Promise<string[]> {
    if (this.#resuming !== undefined) await this.#resuming;
    const { broken } = await this.#client.request("break", { name, reason }) as {
      broken: string[];
    };
    return broken;
  }

  async processes(selection: ProcessSelection): Promise<ProcessFacts[]> {
    if (this.#resuming !== undefined) await this.#resuming;
    const answer = await this.#client.request("processes", { ...selection });
    return (answer as { processes: ProcessFacts[] }).processes;
  }

  async signal(signal: string, selection: ProcessSelection): Promise<number[]> {
    if (this.#resuming !== undefined) await this.#resuming;
    const answer = await this.#client.request("signal", { signal, ...selection });
    return (answer as { signalled: number[] }).signalled;
  }

  get silenceLeftMs(): number | undefined {
    return this.#heartbeat.leftMs;
  }

  checkSilence(): void {
    this.#heartbeat.check();
  }

  async outOfReach(ms: number): Promise<void> {
    while (!this.#isClosed) {
      await this.#client.closed;
      const back = this.#resuming?.then(() => true);
      if (back === undefined || await within(back, ms) === undefined) return;
    }
  }

  close(): void {
    this.#isClosed = true;
    this.#watches.clear();
    this.#held.clear();
    this.#heartbeat.stop();
    this.#client.close(new AgentError("link-closed", "Cannot go on: the session is closed"));
  }

  /** Asks until it is answered, over another link if need be: only then is it free. */
  async #release(name: string): Promise<number | undefined> {
    if (this.#resuming !== undefined) await this.#resuming;
    const watch = this.#watches.get(name);
    this.#watches.delete(name);
    try {
      for (let isRepeated = false;; isRepeated = true) {
        const client = this.#client;
        try {
          return (await client.request("release", { name }) as ReleaseResult).heldMs;
        } catch (error) {
          // The first request had been heard, and its answer had not.
          if (isRepeated && isNotHeld(error)) return undefined;
          // Lost on the way: whoever releases is to know that it was not held to the end.
          if (isNotHeld(error)) {
            watch?.onLoss({
              reason: "session-ended",
              detail: "the agent no longer had it at its release",
            });
          }
          if (error instanceof WireError || !await this.#goesOnAfter(client)) throw error;
        }
      }
    } finally {
      this.#forget(name);
    }
  }

  /** Whether the session goes on over another link than this one, on which a request has failed. */
  async #goesOnAfter(client: AgentClient): Promise<boolean> {
    if (!this.#isClosed) await client.closed;
    await this.#resuming;
    return !this.#isClosed && client !== this.#client;
  }

  #connect(link: Link, hello: Partial<HelloParams>): AgentClient {
    const client = new AgentClient(link, { ...this.#who, ...hello }, {
      onArrival: () => this.#heartbeat.check(),
      onNotification: (method, params) => this.#note(method, params),
      onAnswer: (sentMs) => this.#heartbeat.answered(sentMs),
    });
    void client.closed.then((detail) => this.#onClosed(client, detail));
    return client;
  }

  /** The link is gone; the session lives on at the agent for a while, and so do its locks. */
  #onClosed(client: AgentClient, detail: string): void {
    if (client !== this.#client) return;
    const mayHold = this.#held.size > 0 || this.#inDoubt.size > 0;
    const mayResume = !this.#isClosed && mayHold && this.#hello?.session !== undefined;
    if (!mayResume) return this.#end(detail);
    this.#resuming = this.#resume(detail).finally(() => this.#resuming = undefined);
  }

  /**
   * Tries until the locks would be given up anyway; the heartbeat's clock goes on meanwhile. Those in
   * doubt are a reason, too: a session that has one and stays away is ended by the agent, and its SSH
   * session with it.
   */
  async #resume(detail: string): Promise<void> {
    let why = detail;
    while (!this.#isClosed) {
      this.#heartbeat.check();
      const outcome = await this.#tryResume(this.#hello!.session.secret);
      if (outcome === "resumed" || outcome === "new") {
        return this.#reconnect.onResumed(detail, outcome === "new");
      }
      why = `${detail}; ${outcome.why}`;
      if (outcome.isFinal) return this.#end(why, outcome.loss);
      await delay(RESUME_AGAIN_MS);
    }
    this.#end(why);
  }

  async #tryResume(
    secret: string,
  ): Promise<"resumed" | "new" | { why: string; isFinal: boolean; loss?: Loss | undefined }> {
    try {
      const back = await this.#greet({ resume: secret }).catch((error) => {
        if (error.code !== "no-session" || !this.#onlyWaits) throw error;
      });
      if (back === undefined) return await this.#startAnew();
      const { client, hello: { locks } } = back;
      await this.#giveBackInDoubt(client, locks);
      this.#client = client;
      for (const name of [...this.#held]) {
        const isHeld = locks.some((lock) => lock.name === name);
        const gone = "the agent no longer had it when the session was resumed";
        if (!isHeld) this.#lose(name, { reason: "session-ended", detail: gone });
      }
      return "resumed";
    } catch (error) {
      const isFinal = error instanceof WireError || (error as Error).name === "ConnectError";
      // What the agent could not tell while there was no link.
      const loss = error instanceof WireError ? lossIn(error.facts) : undefined;
      return { why: (error as Error).message, isFinal, loss };
    }
  }

  async #greet(as: Partial<HelloParams>): Promise<{ client: AgentClient; hello: HelloResult }> {
    const client = this.#connect(await this.#reconnect.open(), as);
    try {
      // Something has to be asked: `hello` goes out with it.
      const [hello] = await Promise.all([client.hello, client.request("ping", {})]);
      return { client, hello };
    } catch (error) {
      client.close(error as Error);
      throw error;
    }
  }

  /** Whether there is nothing to lose: an agent knows no session of another one that had no lock. */
  get #onlyWaits(): boolean {
    return this.#held.size === 0 && this.#waiting.size > 0;
  }

  /** The claims that wait are made again in a session of this agent. */
  async #startAnew(): Promise<"new"> {
    const { client, hello } = await this.#greet(this.#greeting);
    this.#accept(hello);
    this.#inDoubt.clear();
    this.#client = client;
    return "new";
  }

  /** Nobody here answers for these locks: kept, they would shut others out until silence ends the session. */
  async #giveBackInDoubt(client: AgentClient, locks: ClaimResult[]): Promise<void> {
    const inDoubt = locks.filter(({ name }) => this.#inDoubt.has(name) && !this.#held.has(name));
    const isAwaited = ({ name }: ClaimResult) => this.#waiting.has(name);
    for (const lock of inDoubt.filter(isAwaited)) this.#kept.set(lock.name, lock);
    const ours = inDoubt.filter((lock) => !isAwaited(lock));
    await Promise.all(ours.map(({ name }) =>
      client.request("release", { name }).catch((error) => {
        if (!(error instanceof WireError)) throw error;
      })
    ));
    this.#inDoubt.clear();
    this.#restIfIdle();
  }

  #accept(hello: HelloResult): void {
    this.#hello = hello;
    this.#checkTimes(hello);
  }

  #checkTimes({ protocol, heartbeatMs, giveUpMs, silenceMs }: HelloResult): void {
    if (protocol !== PROTOCOL_VERSION) {
      const detail = `the agent speaks protocol ${protocol}, this is ${PROTOCOL_VERSION}`;
      throw new ProtocolError("protocol-mismatch", `Cannot use agent: ${detail}`, { protocol });
    }
    const endMs = silenceMs === 0 ? Infinity : silenceMs;
    if (!(heartbeatMs > 0 && heartbeatMs < giveUpMs && giveUpMs < endMs)) {
      const order = `${heartbeatMs}, ${giveUpMs}, ${silenceMs} ms`;
      throw new ProtocolError(
        "bad-times",
        `Cannot use agent: heartbeat, give-up and silence times are not in that order (${order})`,
        { heartbeatMs, giveUpMs, silenceMs },
      );
    }
    this.#heartbeat.setTimes(heartbeatMs, giveUpMs);
  }

  #note(method: string, params: Record<string, unknown>): void {
    const watch = this.#watches.get(String(params.name));
    if (watch === undefined) return;
    if (method === "takeover") watch.onTakeover?.(params as unknown as TakeoverNotice);
    if (method === "queued") watch.onQueued?.(params as unknown as QueuedParams);
    if (method === "lost") {
      const { name, reason, detail } = params as unknown as LostParams;
      this.#lose(name, { reason, detail });
    }
  }

  #giveUp(silentMs: number): void {
    const detail = `no ping that was sent in the last ${describeMs(silentMs)} was answered`;
    this.#loseAll({ reason: "silence", detail });
    this.#isClosed = true;
    this.#client.close(new AgentError("silence", `Cannot go on with the agent: ${detail}`));
    this.#reconnect.onGiveUp();
  }

  #end(detail: string, loss: Loss = { reason: "channel-closed", detail }): void {
    this.#isClosed = true;
    this.#loseAll(loss);
    this.#heartbeat.stop();
    this.#resolveClosed(detail);
  }

  #loseAll(loss: Loss): void {
    for (const name of [...this.#held]) this.#lose(name, loss);
  }

  #lose(name: string, loss: Loss): void {
    const watch = this.#watches.get(name);
    this.#forget(name);
    watch?.onLoss(loss);
  }

  #forget(name: string): void {
    this.#watches.delete(name);
    this.#held.delete(name);
    this.#restIfIdle();
  }

  #restIfIdle(): void {
    const wanted = this.#watches.size + this.#held.size + this.#inDoubt.size;
    if (wanted === 0 || this.#isClosed) this.#heartbeat.stop();
  }
}

/** Whether something comes true before the time is over. The promise itself goes on. */
async function isSoon(
  promise: Promise<boolean>,
  leftMs: number | undefined,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const timed = leftMs === undefined ? promise : within(promise, leftMs);
  if (signal === undefined) return await timed ?? false;
  let giveUp = () => {};
  const aborted = new Promise<false>((resolve) => giveUp = () => resolve(false));
  signal.addEventListener("abort", giveUp, { once: true });
  if (signal.aborted) giveUp();
  try {
    return await Promise.race([timed, aborted]) ?? false;
  } finally {
    signal.removeEventListener("abort", giveUp);
  }
}

function isNotHeld(error: unknown): boolean {
  return (error as { code?: unknown }).code === "not-held";
}
