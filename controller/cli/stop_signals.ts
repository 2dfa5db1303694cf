/**
 * INT, TERM and HUP end what was started on the host before they end us.
 *
 * @module
 */

import { constants } from "node:os";
import process from "node:process";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** We were asked to stop. */
export class StoppedError extends Error {
  override name = "StoppedError";
  /** What to exit with: 128 + the signal's number. */
  readonly exitCode: number;

  /** @param signal The signal that came. */
  constructor(signal: (typeof SIGNALS)[number]) {
    super(`Stopped by ${signal}`);
    this.exitCode = 128 + constants.signals[signal];
  }
}

/** Watches for signals. */
export interface StopSignals extends AsyncDisposable {
  /** Aborts at the first signal, with a {@linkcode StoppedError}. */
  readonly signal: AbortSignal;
}

/** Watches for signals until it is disposed of. A second signal ends the process at once. */
export function watchStopSignals(): StopSignals {
  const controller = new AbortController();
  const listeners = SIGNALS.map((name) => {
    const listener = () => {
      unwatch();
      controller.abort(new StoppedError(name));
    };
    return [name, listener] as const;
  });
  const unwatch = () => {
    for (const [name, listener] of listeners) process.off(name, listener);
  };
  for (const [name, listener] of listeners) process.on(name, listener);
  return {
    signal: controller.signal,
    [Symbol.asyncDispose]: () => Promise.resolve(unwatch()),
  };
}
