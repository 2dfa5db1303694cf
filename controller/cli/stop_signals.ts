/**
 * What INT, TERM and HUP do to `sshlock`: they give up what has not begun, and go to the host once a
 * command runs there.
 *
 * @module
 */

import { constants } from "node:os";
import process from "node:process";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** A signal that asks us to stop. */
export type StopSignal = (typeof SIGNALS)[number];

/** We were asked to stop. */
export class StoppedError extends Error {
  override name = "StoppedError";
  /** What to exit with: 128 + the signal's number. */
  readonly exitCode: number;

  /** @param signal The signal that came. */
  constructor(signal: StopSignal) {
    super(`Stopped by ${signal}`);
    this.exitCode = 128 + constants.signals[signal];
  }
}

/** Watches for signals. */
export interface StopSignals extends AsyncDisposable {
  /** Aborts at the first signal, with a {@linkcode StoppedError}, unless signals are passed on by then. */
  readonly signal: AbortSignal;
  /**
   * From now on each signal is passed on instead. One that had come before is passed on at once.
   *
   * @param passOn What passes one on.
   */
  passOn(passOn: (signal: StopSignal) => void): void;
  /** Leaves further signals to do what they do to any program. */
  unwatch(): void;
}

/**
 * Watches for signals until it is disposed of. Where they are not passed on, a second one ends the
 * process at once.
 */
export function watchStopSignals(): StopSignals {
  const controller = new AbortController();
  let passOn: ((signal: StopSignal) => void) | undefined;
  let first: StopSignal | undefined;
  const hear = (signal: StopSignal) => {
    if (passOn !== undefined) return passOn(signal);
    first = signal;
    unwatch();
    controller.abort(new StoppedError(signal));
  };
  const listeners = SIGNALS.map((name) => [name, () => hear(name)] as const);
  const unwatch = () => {
    for (const [name, listener] of listeners) process.off(name, listener);
  };
  const watch = () => {
    for (const [name, listener] of listeners) process.on(name, listener);
  };
  watch();
  return {
    signal: controller.signal,
    passOn: (to) => {
      passOn = to;
      if (first === undefined) return;
      // It came while the command was being started, and ended the watch.
      watch();
      to(first);
    },
    unwatch,
    [Symbol.asyncDispose]: () => Promise.resolve(unwatch()),
  };
}
