import { connectRpc, type RpcClient, RpcError } from "../support/rpc_client.ts";

/** What a session knows of a lock that it has claimed. */
export type Knowledge =
  /** Claimed, and not answered: it may have been granted. */
  | { kind: "asked" }
  /** Granted, and not given back. */
  | { kind: "granted"; token: number; holderPid: number }
  /** Given back, and not answered: it may still be held. */
  | { kind: "releasing"; token: number };

/** What the answers to a session's `hello`, `claim` say of a lock. */
interface GrantAnswer {
  name: string;
  token: number;
  holderPid: number;
}

interface HelloAnswer {
  session: { secret: string };
  locks: GrantAnswer[];
}

/** A session of this process that keeps account of what it has been told. */
export class TrackedSession {
  readonly owner: string;
  /** By the lock's name; none for a lock that it does not have for sure. */
  readonly locks = new Map<string, Knowledge>();
  #client: RpcClient;
  #secret: string;
  /** Requests that are not answered. */
  readonly #open = new Set<Promise<unknown>>();
  readonly #heartbeat: NodeJS.Timeout;

  private constructor(owner: string, client: RpcClient, secret: string, silenceMs: number) {
    this.owner = owner;
    this.#client = client;
    this.#secret = secret;
    // It goes on while the agent is stopped, so that the session cannot be said to have been silent.
    this.#heartbeat = setInterval(() => this.#ping(), silenceMs / 5).unref();
  }

  /**
   * Connects and says hello. The end of this session kills nobody: its root is this very process.
   *
   * @param silenceMs The session's silence limit, in milliseconds; it sends pings accordingly.
   */
  static async open(socket: string, owner: string, silenceMs: number): Promise<TrackedSession> {
    const client = await connectRpc(socket);
    const hello = { protocol: 1, client: "test", owner, session: "process", silenceMs };
    const { session } = await client.request<HelloAnswer & Record<string, unknown>>("hello", hello);
    return new TrackedSession(owner, client, session.secret, silenceMs);
  }

  /** Claims; rejects when the claim is refused, or when the agent ends before it answers. */
  claim(name: string, waitMs = 0, shared = false): Promise<GrantAnswer> {
    this.locks.set(name, { kind: "asked" });
    const params = { name, waitMs, shared, onEnd: "leave" };
    return this.#track(
      this.#client.request("claim", params).then((result) => {
        const grant = result as unknown as GrantAnswer;
        this.#learn(grant);
        return grant;
      }, (error) => {
        if (error instanceof RpcError) this.locks.delete(name);
        throw error;
      }),
    );
  }

  /** Gives a lock or a claim back; rejects when the agent ends before it answers. */
  release(name: string): Promise<unknown> {
    const known = this.locks.get(name);
    if (known?.kind === "granted") {
      this.locks.set(name, { kind: "releasing", token: known.token });
    }
    return this.#track(
      this.#client.request("release", { name }).then(() => this.locks.delete(name)),
    );
  }

  /** Waits for the notification that a claim waits. */
  async queued(): Promise<void> {
    await this.#client.notification("queued");
  }

  /** Waits until each request was answered or cannot be any more. */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.#open]);
  }

  /**
   * Resumes with the agent that runs now, on a connection of its own.
   *
   * @returns The locks that the agent says the session has; `undefined` when it knows no such session.
   */
  async resume(socket: string): Promise<GrantAnswer[] | undefined> {
    const previous = this.#client;
    const client = this.#client = await connectRpc(socket);
    try {
      const hello = { protocol: 1, client: "test", resume: this.#secret };
      const { locks } = await client.request<HelloAnswer & Record<string, unknown>>("hello", hello);
      return locks;
    } catch (error) {
      if (error instanceof RpcError && error.data.code === "no-session") return undefined;
      throw error;
    } finally {
      await previous.destroy();
    }
  }

  /** Takes over what the agent says of a lock. */
  #learn({ name, token, holderPid }: GrantAnswer): void {
    this.locks.set(name, { kind: "granted", token, holderPid });
  }

  /** Believes the agent about the locks that were in doubt. */
  believe(locks: GrantAnswer[]): void {
    this.locks.clear();
    for (const grant of locks) this.#learn(grant);
  }

  #ping(): void {
    if (this.#client.stream.writable) {
      this.#client.send({ jsonrpc: "2.0", id: "heartbeat", method: "ping" });
    }
  }

  /** Drops the connection. */
  async close(): Promise<void> {
    clearInterval(this.#heartbeat);
    await this.#client.destroy();
  }

  /** A request that fails because the agent has crashed is what these tests are about. */
  #track<T>(request: Promise<T>): Promise<T> {
    const settled = request.then(() => {}, () => {});
    this.#open.add(settled);
    void settled.then(() => this.#open.delete(settled));
    return request;
  }
}
