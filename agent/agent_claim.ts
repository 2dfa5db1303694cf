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
  const hello = { protocol: PROTOCOL_VERSION, client: `sshlock-agent ${VERSION}`, owner };
  const greeted = client.request("hello", { ...hello, silenceMs: 0 });
  const [, { token }] = await Promise.all([greeted, client.request<ClaimResult>("claim", claim)]);
  return new AgentLock(client, claim.name, owner, token);
}

class AgentLock implements HeldLock {
  readonly token: number;
  readonly owner: string;
  onLost: ((loss: LostParams) => void) | undefined;
  readonly #client: AgentClient;

  constructor(client: AgentClient, name: string, owner: string, token: number) {
    this.#client = client;
    this.owner = owner;
    this.token = token;
    client.onNotification = (method, params) => {
      if (method === "lost") this.#lose(params as LostParams);
    };
    client.onClose = () => {
      const detail = "the agent has closed the connection";
      this.#lose({ name, token, reason: "agent-ended", detail });
    };
  }

  release(): Promise<void> {
    this.onLost = undefined;
    return new Promise((resolve) => {
      this.#client.onClose = () => resolve();
      this.#client.close();
    });
  }

  #lose(loss: LostParams): void {
    this.onLost?.(loss);
    this.onLost = undefined;
  }
}
