/**
 * The locks of a host through its agent.
 *
 * @module
 */

import { PROTOCOL_VERSION } from "../protocol/limits.ts";
import {
  type ClaimParams,
  type ClaimResult,
  describeMs,
  type HelloResult,
  type LostParams,
  type QueuedParams,
  type ReleaseResult,
  type StatusParams,
  type StatusResult,
} from "../protocol/messages.ts";
import { readAllPages } from "../protocol/status_pages.ts";
import { VERSION } from "../protocol/version.ts";
import { AgentClient, type Link } from "./agent_client.ts";
import { AgentError, ProtocolError } from "./errors.ts";
import { Heartbeat } from "./heartbeat.ts";
import type { ClaimWatch, Grant, LockService, Loss } from "./lock_service.ts";
import type { Way } from "./way.ts";

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
  /** What the agent said of itself. */
  readonly hello: Promise<HelloResult>;
  readonly #client: AgentClient;
  readonly #heartbeat: Heartbeat;
  /** Claims that wait and locks that are held, by name. */
  readonly #watches = new Map<string, ClaimWatch>();
  /** Locks that are held: the rest of the watches are claims that wait. */
  readonly #held = new Set<string>();

  /**
   * @param way The way.
   * @param link A fresh link to the agent.
   * @param greeting How to present the session.
   */
  constructor(way: Way, link: Link, greeting: Greeting) {
    this.way = way;
    this.#heartbeat = new Heartbeat({
      ping: () => this.#client.request("ping", {}).catch(() => {}),
      giveUp: (silentMs) => this.#giveUp(silentMs),
    });
    const hello = {
      protocol: PROTOCOL_VERSION,
      client: `sshlock/${VERSION}`,
      ...(greeting.owner === undefined ? {} : { owner: greeting.owner }),
      ...(greeting.silenceMs === undefined ? {} : { silenceMs: greeting.silenceMs }),
    };
    this.#client = new AgentClient(link, hello, {
      onArrival: () => this.#heartbeat.check(),
      onNotification: (method, params) => this.#note(method, params),
      onAnswer: (sentMs) => this.#heartbeat.answered(sentMs),
    });
    this.hello = this.#client.hello;
    this.proven = this.hello.then((answer) => this.#accept(answer));
    this.proven.catch((error) => this.#client.close(error));
    this.closed = this.#client.closed.then((detail) => this.#end(detail));
  }

  get isOver(): boolean {
    return this.#client.isOver;
  }

  async claim(params: ClaimParams, watch: ClaimWatch): Promise<Grant> {
    const { name } = params;
    if (this.#watches.has(name)) {
      throw new AgentError(
        "already-claimed",
        `Cannot claim "${name}": this session has claimed it`,
      );
    }
    this.#watches.set(name, watch);
    this.#heartbeat.start();
    const giveClaimUp = () => this.#client.request("release", { name }).catch(() => {});
    try {
      const answer = this.#client.request("claim", params) as Promise<ClaimResult>;
      watch.signal?.addEventListener("abort", giveClaimUp, { once: true });
      const result = await answer;
      await this.proven;
      watch.signal?.throwIfAborted();
      // Its loss may have come in the same packet as its grant.
      if (this.#watches.get(name) === watch) this.#held.add(name);
      return { ...result, release: () => this.#release(name) };
    } catch (error) {
      this.#forget(name);
      watch.signal?.throwIfAborted();
      // Where `hello` was refused, that is the cause and this is what followed.
      await this.proven;
      throw error;
    } finally {
      watch.signal?.removeEventListener("abort", giveClaimUp);
    }
  }

  async status(name?: string): Promise<StatusResult> {
    const ask = async (params: StatusParams) =>
      await this.#client.request("status", { ...params }) as StatusResult;
    return await readAllPages(ask, name);
  }

  checkSilence(): void {
    this.#heartbeat.check();
  }

  close(): void {
    this.#watches.clear();
    this.#held.clear();
    this.#heartbeat.stop();
    this.#client.close(new AgentError("link-closed", "Cannot go on: the session is closed"));
  }

  async #release(name: string): Promise<number> {
    const watch = this.#watches.get(name);
    this.#watches.delete(name);
    try {
      const { heldMs } = await this.#client.request("release", { name }) as ReleaseResult;
      return heldMs;
    } catch (error) {
      // Lost on the way: whoever releases is to know that it was not held to the end.
      if (watch !== undefined && isNotHeld(error)) {
        watch.onLoss({
          reason: "session-ended",
          detail: "the agent no longer had it at its release",
        });
      }
      throw error;
    } finally {
      this.#forget(name);
    }
  }

  #accept({ protocol, heartbeatMs, giveUpMs, silenceMs }: HelloResult): void {
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
    if (method === "queued") watch.onQueued?.(params as unknown as QueuedParams);
    if (method === "lost") {
      const { name, reason, detail } = params as unknown as LostParams;
      this.#lose(name, { reason, detail });
    }
  }

  #giveUp(silentMs: number): void {
    const detail = `no ping that was sent in the last ${describeMs(silentMs)} was answered`;
    this.#loseAll({ reason: "silence", detail });
    this.#client.close(new AgentError("silence", `Cannot go on with the agent: ${detail}`));
  }

  #end(detail: string): string {
    this.#loseAll({ reason: "channel-closed", detail });
    this.#heartbeat.stop();
    return detail;
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
    if (this.#watches.size === 0) this.#heartbeat.stop();
  }
}

function isNotHeld(error: unknown): boolean {
  return (error as { code?: unknown }).code === "not-held";
}
