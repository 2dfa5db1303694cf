/**
 * A lock that a command of this host has from the running agent.
 *
 * @module
 */

import { PROTOCOL_VERSION } from "../protocol/limits.ts";
import type { ClaimParams, ClaimResult, LostParams } from "../protocol/messages.ts";
import { VERSION } from "../protocol/version.ts";
import type { AgentClient } from "./client.ts";

/** A lock that is held for a command. */
export interface HeldLock {
  /** The fencing token. */
  readonly token: number;
  /** The identity it is held under. */
  readonly owner: string;
  /** Called once when the lock is lost. */
  onLost: ((loss: LostParams) => void) | undefined;
  /** Gives the lock back. */
  release(): Promise<void>;
}

/**
 * Claims a lock from the agent, for as long as the connection lives.
 *
 * No heartbeats are sent: the kernel tells the agent at once when a local process is gone, and one
 * that is merely stopped keeps its lock, as with flock(1).
 *
 * @param client A connection to the agent.
 * @param owner The identity to claim under.
 * @param claim What to claim.
 * @throws {WireError} The agent refused.
 */
export async function claimFromAgent(
  client: AgentClient,
  owner: string,
  claim: ClaimParams,
): Promise<HeldLock> {
  const lock = new AgentLock(client, claim.name, owner);
  const hello = { protocol: PROTOCOL_VERSION, client: `sshlock-agent ${VERSION}`, owner };
  const greeted = client.request("hello", { ...hello, silenceMs: 0 });
  const [, { token }] = await Promise.all([greeted, client.request<ClaimResult>("claim", claim)]);
  lock.token = token;
  return lock;
}

class AgentLock implements HeldLock {
  token = 0;
  readonly owner: string;
  readonly #client: AgentClient;
  #isClosed = false;
  #loss: LostParams | undefined;
  #onLost: ((loss: LostParams) => void) | undefined;

  constructor(client: AgentClient, name: string, owner: string) {
    this.#client = client;
    this.owner = owner;
    client.onNotification = (method, params) => {
      if (method === "lost") this.#lose(params as LostParams);
    };
    client.onClose = () => {
      this.#isClosed = true;
      const detail = "the agent has closed the connection";
      this.#lose({ name, token: this.token, reason: "agent-ended", detail });
    };
  }

  get onLost(): ((loss: LostParams) => void) | undefined {
    return this.#onLost;
  }

  /** A loss may come in one packet with the grant, before anyone could listen. */
  set onLost(listener: ((loss: LostParams) => void) | undefined) {
    this.#onLost = listener;
    if (this.#loss !== undefined) listener?.(this.#loss);
  }

  release(): Promise<void> {
    this.#onLost = undefined;
    if (this.#isClosed) return Promise.resolve();
    return new Promise((resolve) => {
      this.#client.onClose = () => resolve();
      this.#client.close();
    });
  }

  #lose(loss: LostParams): void {
    if (this.#loss !== undefined) return;
    this.#loss = loss;
    this.#onLost?.(loss);
  }
}
