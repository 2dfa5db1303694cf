/**
 * Ends sessions that have been silent for too long, with one timer for all of them.
 *
 * @module
 */

import { performance } from "node:perf_hooks";

/** Delay of a timer, in milliseconds, that no load explains: this process was stopped. */
const LATE_MS = 500;

/** Time to read what has piled up while this process was stopped, in milliseconds. */
const HEAR_FIRST_MS = 200;

/** Pause before a session is looked at again of which something lies unread, in milliseconds. */
const UNREAD_AGAIN_MS = 20;

/** A session whose silence is watched. */
export interface Listened {
  /** Silence limit in milliseconds. */
  readonly silenceMs: number;
  /** When it was last heard of, on the monotonic clock, in milliseconds. */
  lastHeardAt: number;
  /** Whether something that it has sent lies unread: then it is not silent, only not heard yet. */
  hasUnread(): boolean;
  /** Called once when the limit has passed. */
  endForSilence(): void;
}

/**
 * Watches the silence of sessions. With none to watch there is no timer, so an idle agent sleeps.
 *
 * Hearing from a session only notes the time: the timer looks at the notes when it fires and is set
 * anew for the earliest limit, so heartbeats move no timers.
 */
export class SilenceWatch {
  readonly #sessions = new Set<Listened>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #firesAt = Infinity;

  /**
   * Starts to watch a session.
   *
   * @param session The session; its `lastHeardAt` is kept up to date by itself.
   */
  add(session: Listened): void {
    this.#sessions.add(session);
    this.#fireBy(session.lastHeardAt + session.silenceMs);
  }

  /**
   * Stops to watch a session.
   *
   * @param session The session.
   */
  delete(session: Listened): void {
    this.#sessions.delete(session);
    if (this.#sessions.size > 0) return;
    clearTimeout(this.#timer);
    this.#firesAt = Infinity;
  }

  /**
   * A timer that is far too late means that this process was stopped, and perhaps the whole host: what
   * the sessions sent meanwhile may not even have come here, so they are heard first.
   */
  #wake(deadline: number): void {
    const isLate = performance.now() - deadline > LATE_MS;
    // A turn of the event loop in any case: what was read from a socket is handed on by then.
    const look = () => setImmediate(() => this.#look());
    if (isLate) this.#timer = setTimeout(look, HEAR_FIRST_MS);
    else look();
  }

  #fireBy(deadline: number): void {
    if (deadline >= this.#firesAt) return;
    clearTimeout(this.#timer);
    this.#firesAt = deadline;
    this.#timer = setTimeout(
      () => this.#wake(deadline),
      Math.max(0, deadline - performance.now()) + 1,
    );
  }

  /**
   * The notes alone prove no silence. Where this process had no time to read, they are old, and no
   * pause makes sure that it had: timers may come before what is to be read, one after the other.
   */
  #look(): void {
    this.#firesAt = Infinity;
    const now = performance.now();
    const overdue: Listened[] = [];
    let earliest = Infinity;
    for (const session of this.#sessions) {
      const deadline = session.lastHeardAt + session.silenceMs;
      if (deadline > now) earliest = Math.min(earliest, deadline);
      else if (session.hasUnread()) earliest = Math.min(earliest, now + UNREAD_AGAIN_MS);
      else overdue.push(session);
    }
    for (const session of overdue) {
      this.#sessions.delete(session);
      session.endForSilence();
    }
    if (earliest < Infinity) this.#fireBy(earliest);
  }
}
