/**
 * A claim of a command of this host that goes on when the agent ends before it has answered: at the
 * next agent, with what is left of its time.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import type { ClaimParams } from "../protocol/messages.ts";
import { WireError } from "../protocol/wire_error.ts";
import { AgentEndedError, type AgentLock, claimFromAgent } from "./agent_claim.ts";
import { AgentClient, connectToAgent } from "./client.ts";

/**
 * How long another agent is waited for once one has ended, in milliseconds. A restart or an upgrade
 * takes less, and a lock that is free meanwhile should not stay unused for long.
 */
const AGENT_BACK_MS = 5_000;

/** The same where it had said nothing at all: it may as well be one that refuses, in milliseconds. */
const UNHEARD_MS = 1_000;

/** Pause between two tries to reach it, in milliseconds. */
const LOOK_AGAIN_MS = 50;

/** How a claim came out. */
export type WaitingClaimOutcome =
  | { kind: "granted"; lock: AgentLock }
  /** Nobody has answered `left`, the claim with the time that it has left, or may answer it any more. */
  | { kind: "no-agent"; left: ClaimParams };

/** A claim and the time that it has. */
export class WaitingClaim {
  readonly #claim: ClaimParams;
  readonly #agentBackMs: number;
  readonly #startedAt = performance.now();

  /**
   * @param claim What to claim.
   * @param options `agentBackMs`: how long another agent is waited for, in milliseconds; default 5,000.
   */
  constructor(claim: ClaimParams, options: { agentBackMs?: number } = {}) {
    this.#claim = claim;
    this.#agentBackMs = options.agentBackMs ?? AGENT_BACK_MS;
  }

  /**
   * Claims from the agent. One that ends before it has answered is waited for: the next one is asked
   * again. The place in the queue is lost with the agent.
   *
   * @param sockets Where an agent is found.
   * @param owner The identity to claim under.
   * @returns `no-agent` where none runs, or none runs again in time.
   * @throws {WireError} An agent refused.
   * @throws {AgentEndedError} One is there, and ends each connection without a word.
   */
  async fromAgents(sockets: string[], owner: string): Promise<WaitingClaimOutcome> {
    let secret: string | undefined;
    let lookUntil: number | undefined;
    for (;;) {
      const connection = await connectToAgent(sockets);
      let ended: AgentEndedError | undefined;
      if (connection.kind === "connected") {
        const client = new AgentClient(connection.socket);
        try {
          const lock = await claimFromAgent(client, sockets, owner, this.#left, secret);
          return { kind: "granted", lock };
        } catch (error) {
          if (!(error instanceof AgentEndedError)) throw this.refused(error);
          ended = error;
        }
      }
      if (ended?.secret !== undefined) {
        secret = ended.secret;
        lookUntil = this.#inTime(this.#agentBackMs);
      }
      lookUntil ??= ended === undefined ? -Infinity : this.#inTime(UNHEARD_MS);
      if (performance.now() >= lookUntil) {
        if (ended !== undefined && secret === undefined) throw ended;
        return { kind: "no-agent", left: this.#left };
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
    }
  }

  /**
   * A refusal tells how long the claim has waited in all, wherever that was.
   *
   * @param error What it was refused with at last.
   */
  refused(error: unknown): unknown {
    if (!(error instanceof WireError) || error.code !== "contended") return error;
    if (this.#claim.waitMs === 0) return error;
    const waitedMs = Math.round(performance.now() - this.#startedAt);
    return new WireError(error.code, error.message, { ...error.facts, waitedMs });
  }

  /** A claim that does not wait for the lock may still wait for the agent to come back. */
  #inTime(ms: number): number {
    const { waitMs = Infinity } = this.#claim;
    const waitsUntil = waitMs === 0 ? Infinity : this.#startedAt + waitMs;
    return Math.min(performance.now() + ms, waitsUntil);
  }

  get #left(): ClaimParams {
    const { waitMs } = this.#claim;
    if (waitMs === undefined || waitMs === 0) return this.#claim;
    const leftMs = Math.ceil(this.#startedAt + waitMs - performance.now());
    return { ...this.#claim, waitMs: Math.min(Math.max(leftMs, 0), waitMs) };
  }
}
