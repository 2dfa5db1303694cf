import { openSync, writeSync } from "node:fs";
import { formatEvent, type HistoryEvent } from "./history.ts";

/** An event that is stamped as it is written. */
export type Unstamped = HistoryEvent extends infer E
  ? E extends { t: number } ? Omit<E, "t"> : never
  : never;

/** Now on CLOCK_MONOTONIC, in nanoseconds. */
export function nowNs(): number {
  return Number(process.hrtime.bigint());
}

/** A process's part of a history. */
export class Recorder {
  readonly #fd: number;

  /**
   * @param path The file; events are appended.
   */
  constructor(path: string) {
    this.#fd = openSync(path, "a", 0o600);
  }

  /** Writes an event, stamped now unless told; it is in the file when this returns. */
  write(event: Unstamped, t = nowNs()): void {
    writeSync(this.#fd, formatEvent({ ...event, t } as HistoryEvent));
  }
}
