/**
 * The time of a claim that may be made at several agents, one after the other.
 *
 * @module
 */

import type { ClaimParams, ClaimResult } from "../protocol/messages.ts";
import { WireError } from "../protocol/wire_error.ts";

/** How long a claim has waited, and what is left of its time. */
export class ClaimTime {
  readonly #params: ClaimParams;
  readonly #startMs = performance.now();

  /**
   * @param params What is claimed.
   */
  constructor(params: ClaimParams) {
    this.#params = params;
  }

  /** Whether it waits at all: one that takes a lock over does, unless it says otherwise. */
  get mayWait(): boolean {
    const { waitMs, takeover } = this.#params;
    return waitMs === undefined ? takeover !== undefined : waitMs > 0;
  }

  /** What is left of its time, in milliseconds; `undefined` where only the agent knows. */
  get leftMs(): number | undefined {
    const { waitMs } = this.#params;
    return waitMs === undefined ? undefined : Math.max(0, Math.ceil(waitMs - this.#waitedMs));
  }

  /** The claim with what is left of its time. */
  get left(): ClaimParams {
    const { leftMs } = this;
    return leftMs === undefined || !this.mayWait
      ? this.#params
      : { ...this.#params, waitMs: leftMs };
  }

  /**
   * A grant with the time that was waited in all.
   *
   * @param result The grant.
   */
  granted(result: ClaimResult): ClaimResult {
    return { ...result, waitedMs: Math.round(this.#waitedMs) };
  }

  /**
   * A refusal with the time that was waited in all.
   *
   * @param error The refusal.
   */
  refused(error: WireError): WireError {
    if (error.code !== "contended") return error;
    const waitedMs = Math.round(this.#waitedMs);
    return new WireError(error.code, error.message, { ...error.facts, waitedMs });
  }

  get #waitedMs(): number {
    return performance.now() - this.#startMs;
  }
}
