/**
 * Why sessions lost what they had last, for those that were not there to hear it.
 *
 * @module
 */

import type { EndCause } from "./ownership.ts";

/** Sessions that are remembered; each has its silence limit to ask. */
const MAX_REMEMBERED = 1_000;

/** The last losses of sessions that have ended, by the hash of their secret. */
export class LastLosses {
  readonly #losses = new Map<string, EndCause & { uid: number }>();

  /**
   * Remembers a loss; the oldest is forgotten where there are too many.
   *
   * @param secretHash The session.
   * @param uid Its user.
   * @param cause Why it lost its lock.
   */
  note(secretHash: string, uid: number, { reason, detail }: EndCause): void {
    this.#losses.delete(secretHash);
    this.#losses.set(secretHash, { reason, detail, uid });
    const [oldest] = this.#losses.keys();
    if (this.#losses.size > MAX_REMEMBERED) this.#losses.delete(oldest!);
  }

  /**
   * Why a session lost its lock; `undefined` where that is not known.
   *
   * @param secretHash The session.
   * @param uid Who asks: nobody but its user is told.
   */
  of(secretHash: string, uid: number): EndCause | undefined {
    const found = this.#losses.get(secretHash);
    if (found?.uid !== uid) return undefined;
    const { reason, detail } = found;
    return { reason, detail };
  }
}
