import { setTimeout as delay } from "node:timers/promises";

/** How long a wait may take before it fails, and what to call it then. */
export interface WaitOptions {
  /** Milliseconds until the wait fails; 10,000 unless told, since a loaded machine may stall for seconds. */
  deadlineMs?: number;
  /** What is waited for, for the message: "the holder's first byte". */
  what?: string;
}

const defaultDeadlineMs = 10_000;

/** A wait that reached its deadline. */
export class WaitTimeoutError extends Error {
  override name = "WaitTimeoutError";
}

/** Everything that happened so far, and a way to wait for what has not happened yet. */
export class EventLog<T> {
  /** All events, oldest first. */
  readonly all: T[] = [];
  #waiters = new Set<() => void>();
  #ended: string | undefined;

  /** Appends an event and wakes whoever waits for it. */
  push(event: T): void {
    this.all.push(event);
    this.#wake();
  }

  /** Says that no event will follow, so that a wait fails now and not at its deadline. */
  end(reason: string): void {
    this.#ended ??= reason;
    this.#wake();
  }

  /**
   * Waits for the first event, past ones from index `from` included, that the predicate accepts.
   *
   * @throws {WaitTimeoutError} None came in time, or none can come any more.
   */
  async waitFor(
    predicate: (event: T) => boolean,
    options: WaitOptions & { from?: number } = {},
  ): Promise<T> {
    const what = options.what ?? "an event";
    const deadlineMs = options.deadlineMs ?? defaultDeadlineMs;
    let next = options.from ?? 0;
    let timedOut = false;
    let wake = () => {};
    const timer = setTimeout(() => {
      timedOut = true;
      wake();
    }, deadlineMs);
    try {
      while (true) {
        for (; next < this.all.length; next++) {
          const event = this.all[next] as T;
          if (predicate(event)) return event;
        }
        if (this.#ended !== undefined) throw this.#failure(`${what} cannot come: ${this.#ended}`);
        if (timedOut) throw this.#failure(`${what} did not come within ${deadlineMs} ms`);
        await new Promise<void>((resolve) => {
          wake = resolve;
          this.#waiters.add(resolve);
        });
        this.#waiters.delete(wake);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #wake(): void {
    for (const wake of this.#waiters) wake();
  }

  #failure(message: string): WaitTimeoutError {
    const last = this.all.slice(-5).map((event) => `\n  ${JSON.stringify(event)}`).join("");
    return new WaitTimeoutError(`${message}; ${this.all.length} events so far, the last:${last}`);
  }
}

/**
 * Asks again and again until the answer is neither `undefined` nor `false`: only for states of the kernel
 * that send no event (a process that is gone, a line of /proc/locks).
 *
 * @throws {WaitTimeoutError} No such answer within the deadline.
 */
export async function until<T>(
  ask: () => T | Promise<T>,
  options: WaitOptions & { intervalMs?: number } = {},
): Promise<Exclude<Awaited<T>, undefined | false>> {
  const deadlineMs = options.deadlineMs ?? defaultDeadlineMs;
  const endsAt = performance.now() + deadlineMs;
  while (true) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) {
      return answer as Exclude<Awaited<T>, undefined | false>;
    }
    if (performance.now() > endsAt) {
      throw new WaitTimeoutError(
        `${options.what ?? "the state"} was not seen within ${deadlineMs} ms`,
      );
    }
    await delay(options.intervalMs ?? 2);
  }
}

/** Fails when the promise has not settled in time. The promise itself goes on. */
export async function within<T>(promise: Promise<T>, options: WaitOptions = {}): Promise<T> {
  const deadlineMs = options.deadlineMs ?? defaultDeadlineMs;
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const what = options.what ?? "the promise";
      reject(new WaitTimeoutError(`${what} did not settle within ${deadlineMs} ms`));
    }, deadlineMs);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
