/**
 * A lock that a command of this host has from the running agent.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import { PROTOCOL_VERSION } from "../protocol/limits.ts";
import {
  type ClaimParams,
  type ClaimResult,
  describeMs,
  type HelloResult,
  lossIn,
  type LostParams,
  type TakeoverNotice,
} from "../protocol/messages.ts";
import { VERSION } from "../protocol/version.ts";
import { WireError } from "../protocol/wire_error.ts";
import { AgentClient, connectToAgent } from "./client.ts";
import type { ProcessId } from "./proc.ts";

/** Pause between two tries to reach an agent that is being restarted, in milliseconds. */
const RESUME_AGAIN_MS = 50;

/** A lock that is held for a command. */
export interface HeldLock {
  /** The fencing token. */
  readonly token: number;
  /** The identity it is held under. */
  readonly owner: string;
  /** Whether it is shared. */
  readonly shared: boolean;
  /** Id of the session that has it: the mark of its command's processes. */
  readonly session: string;
  /** This process, where it has the lock without an agent. */
  readonly run: ProcessId | undefined;
  /** Pids below this process that are no part of the command. */
  readonly spared: ReadonlySet<number>;
  /** Called once when the lock is lost. */
  onLost: ((loss: LostParams) => void) | undefined;
  /** Called when another asks for the lock. */
  onTakeover: ((notice: TakeoverNotice) => void) | undefined;
  /**
   * Tells of the command's process.
   *
   * @param pid The process.
   */
  started(pid: number): void;
  /** Gives the lock back. */
  release(): Promise<void>;
}

/**
 * Claims a lock from the agent, for as long as this process lives. The agent may be restarted
 * meanwhile: the session resumes with the next one.
 *
 * No heartbeats are sent: the kernel tells the agent at once when a local process is gone, and one
 * that is merely stopped keeps its lock, as with flock(1).
 *
 * @param client A connection to the agent.
 * @param sockets Where an agent is found again.
 * @param owner The identity to claim under.
 * @param claim What to claim.
 * @param lastSecret Secret of the session that the claim was made in before, at an agent that has
 * ended: it may have been granted there without a word.
 * @throws {WireError} The agent refused.
 * @throws {AgentEndedError} The agent ended before it had answered.
 */
export async function claimFromAgent(
  client: AgentClient,
  sockets: string[],
  owner: string,
  claim: ClaimParams,
  lastSecret?: string,
): Promise<AgentLock> {
  const lock = new AgentLock(client, { sockets, name: claim.name, owner });
  let secret: string | undefined;
  try {
    const back = lastSecret === undefined ? undefined : await resumeSession(client, lastSecret);
    const kept = back?.locks.find(({ name }) => name === claim.name);
    if (back !== undefined && kept !== undefined) return lock.granted(back, kept);
    const greeted = back ?? sayHello(client, { owner });
    const granted = client.request<ClaimResult>("claim", claim);
    void Promise.resolve(greeted).then(({ session }) => secret = session.secret, () => {});
    return lock.granted(...await Promise.all([greeted, granted]));
  } catch (error) {
    throw client.hasEnded ? new AgentEndedError(secret) : error;
  }
}

/** The agent ended, or was ended, before it had answered a claim. */
export class AgentEndedError extends WireError {
  override name = "AgentEndedError";
  /** Secret of the session that the claim was made in, where it was told. */
  readonly secret: string | undefined;

  /**
   * @param secret Secret of the session, where it was told.
   */
  constructor(secret: string | undefined) {
    super("cancelled", "The agent has closed the connection");
    this.secret = secret;
  }
}

/** A session that has no lock is unknown to the next agent. */
async function resumeSession(
  client: AgentClient,
  secret: string,
): Promise<HelloResult | undefined> {
  try {
    return await sayHello(client, { resume: secret });
  } catch (error) {
    if (error instanceof WireError && error.code === "no-session") return undefined;
    throw error;
  }
}

function sayHello(
  client: AgentClient,
  who: { owner?: string; resume?: string },
): Promise<HelloResult> {
  const hello = { protocol: PROTOCOL_VERSION, client: `sshlock-agent ${VERSION}` };
  return client.request<HelloResult>("hello", {
    ...hello,
    ...who,
    session: "process",
    silenceMs: 0,
  });
}

interface AgentLockFacts {
  sockets: string[];
  name: string;
  owner: string;
}

/** A lock that the agent has granted to this process. */
export class AgentLock implements HeldLock {
  token = 0;
  shared = false;
  session = "";
  /** Whether another session of the same owner had it already. */
  isJoined = false;
  readonly run = undefined;
  readonly spared: ReadonlySet<number> = new Set();
  readonly #facts: AgentLockFacts;
  /** What the session is resumed with; unknown until the lock is granted. */
  #secret: string | undefined;
  #resumeMs = 0;
  #client: AgentClient;
  #isReleased = false;
  #resuming: Promise<void> | undefined;
  #loss: LostParams | undefined;
  #onTakeover: ((notice: TakeoverNotice) => void) | undefined;
  readonly #notices: TakeoverNotice[] = [];
  #onLost: ((loss: LostParams) => void) | undefined;

  constructor(client: AgentClient, facts: AgentLockFacts) {
    this.#facts = facts;
    this.#client = client;
    this.#listen(client);
  }

  get owner(): string {
    return this.#facts.owner;
  }

  get onLost(): ((loss: LostParams) => void) | undefined {
    return this.#onLost;
  }

  /** A loss may come in one packet with the grant, before anyone could listen. */
  set onLost(listener: ((loss: LostParams) => void) | undefined) {
    this.#onLost = listener;
    if (this.#loss !== undefined) listener?.(this.#loss);
  }

  /**
   * Takes what the agent has granted.
   *
   * @param hello What it told of the session.
   * @param grant The lock.
   */
  granted(hello: HelloResult, { token, shared, joined }: ClaimResult): this {
    this.token = token;
    this.shared = shared;
    this.isJoined = joined === true;
    this.greeted(hello);
    return this;
  }

  /**
   * Takes what the agent told of the session.
   *
   * @param hello Its answer.
   */
  greeted({ session, resumeMs }: HelloResult): void {
    this.session = session.id;
    this.#secret = session.secret;
    this.#resumeMs = resumeMs;
  }

  started(): void {/* the agent finds it by the session's mark */}

  get onTakeover(): ((notice: TakeoverNotice) => void) | undefined {
    return this.#onTakeover;
  }

  /** Like a loss it may come before anyone listens. */
  set onTakeover(listener: ((notice: TakeoverNotice) => void) | undefined) {
    this.#onTakeover = listener;
    for (const notice of this.#notices.splice(0)) listener?.(notice);
  }

  async release(): Promise<void> {
    this.#isReleased = true;
    this.#onLost = undefined;
    await this.#resuming;
    // Without an answer the end of this process does the same.
    await this.#client.request("release", { name: this.#facts.name }).catch(() => {});
    this.#client.close();
  }

  #listen(client: AgentClient): void {
    this.#client = client;
    client.onNotification = (method, params) => this.#hear(method, params);
    client.onClose = () => {
      this.#resuming = this.#resume();
    };
  }

  async #resume(): Promise<void> {
    const deadline = performance.now() + this.#resumeMs;
    let why = `no agent was there again within ${describeMs(this.#resumeMs)}`;
    const secret = this.#secret;
    while (secret !== undefined && !this.#isReleased && performance.now() < deadline) {
      const connection = await connectToAgent(this.#facts.sockets);
      if (connection.kind === "connected") {
        const client = new AgentClient(connection.socket);
        // What has become of the lock meanwhile is told ahead of the answer.
        client.onNotification = (method, params) => this.#hear(method, params);
        try {
          const hello = await sayHello(client, { resume: secret });
          this.greeted(hello);
          this.#listen(client);
          return this.#check(hello.locks);
        } catch (error) {
          client.close();
          // An agent that ends while it is asked is as good as none.
          if (error instanceof WireError) {
            why = error.message;
            if (error.code === "no-session") return this.#loseOver(why, lossIn(error.facts));
          }
        }
      }
      await new Promise((resolve) => setTimeout(resolve, RESUME_AGAIN_MS));
    }
    this.#loseOver(why);
  }

  /** The agent may know the cause; it could not tell while there was no connection. */
  #loseOver(why: string, told?: Pick<LostParams, "reason" | "detail">): void {
    const { name } = this.#facts;
    const { token } = this;
    const detail = `the agent has closed the connection, and ${why}`;
    const loss = told ?? { reason: "session-ended" as const, detail };
    if (!this.#isReleased) this.#lose({ name, token, ...loss });
  }

  #hear(method: string, params: unknown): void {
    if (method === "lost") this.#lose(params as LostParams);
    if (method === "takeover") this.#tell(params as TakeoverNotice);
  }

  /** The session may have come back without its lock. */
  #check(locks: ClaimResult[]): void {
    const { name } = this.#facts;
    const { token } = this;
    if (this.#isReleased || locks.some((lock) => lock.name === name && lock.token === token)) {
      return;
    }
    const detail = "the agent no longer had it when the session was resumed";
    this.#lose({ name, token, reason: "session-ended", detail });
  }

  #tell(notice: TakeoverNotice): void {
    if (this.#onTakeover === undefined) this.#notices.push(notice);
    else this.#onTakeover(notice);
  }

  #lose(loss: LostParams): void {
    if (this.#loss !== undefined) return;
    this.#loss = loss;
    this.#onLost?.(loss);
  }
}
