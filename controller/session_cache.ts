/**
 * One session for each host and user, opened when it is first asked for.
 *
 * @module
 */

import { connect, type ConnectOptions } from "./connect.ts";
import type { Session } from "./session.ts";
import { describeTarget, type Target } from "./target.ts";

/** Keeps sessions for reuse, by user, host and port. A session whose connection is lost is dropped. */
export class SessionCache implements AsyncDisposable {
  readonly #options: ConnectOptions;
  readonly #sessions = new Map<string, Promise<Session>>();

  /** @param options Options of each `connect`. */
  constructor(options: ConnectOptions = {}) {
    this.#options = options;
  }

  /** How many sessions there are, being opened included. */
  get size(): number {
    return this.#sessions.size;
  }

  /**
   * The open session to a host and user; a new one where there is none. Callers that ask at the same
   * time get the same session, so nobody but the cache should close it.
   *
   * @param target The host and how to log in there. Of two targets with the same user, host and port, the first counts.
   * @throws {ConnectError} It cannot be opened. The next call tries again.
   */
  async get(target: Target): Promise<Session> {
    const name = describeTarget(target);
    const known = this.#sessions.get(name);
    if (known !== undefined) {
      const session = await known;
      if (session.isOpen) return session;
      if (this.#sessions.get(name) === known) this.#sessions.delete(name);
      return this.get(target);
    }
    const opening = connect(target, this.#options);
    this.#sessions.set(name, opening);
    const forget = () => {
      if (this.#sessions.get(name) === opening) this.#sessions.delete(name);
    };
    opening.then((session) => session.closed.then(forget), forget);
    return await opening;
  }

  /**
   * Drops a session: the next `get` opens a new one. It is closed.
   *
   * @param target The host and user.
   */
  async drop(target: Target): Promise<void> {
    const name = describeTarget(target);
    const known = this.#sessions.get(name);
    this.#sessions.delete(name);
    await known?.then((session) => session.close(), () => {});
  }

  /**
   * Closes all sessions.
   *
   * @returns The errors of those that could not be closed in order; none of them is left open.
   */
  async closeAll(): Promise<Error[]> {
    const sessions = [...this.#sessions.values()];
    this.#sessions.clear();
    const results = await Promise.allSettled(sessions.map(async (opening) => {
      const session = await opening.catch(() => undefined);
      await session?.close();
    }));
    return results.filter((result) => result.status === "rejected").map(({ reason }) => reason);
  }

  /** Closes all sessions; their errors are dropped. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.closeAll();
  }
}
