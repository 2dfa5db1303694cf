import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { formatEvent, type HistoryEvent, type OwnerFields } from "./history.ts";
import type { Random } from "./random.ts";

/** What stays the same in all events of one grant. */
export type Grant = Omit<OwnerFields, "tMonoNs">;

/** The counter is a number of this many digits, so that a write never changes the file's length. */
const counterDigits = 12;

/** An owner's log: a line is one write(2), so a kill leaves whole lines. */
export class OwnerLog {
  readonly #fd: number;

  constructor(path: string) {
    this.#fd = openSync(path, "a", 0o600);
  }

  /** Appends an event, stamped now. */
  write(event: Unstamped): void {
    writeSync(
      this.#fd,
      formatEvent({ ...event, tMonoNs: process.hrtime.bigint() } as HistoryEvent),
    );
  }

  /** Closes the file. */
  close(): void {
    closeSync(this.#fd);
  }
}

type Unstamped =
  | Grant & { event: "grant" | "loss" }
  | Grant & { event: "enter"; counterBefore: number | null }
  | Grant & { event: "exit"; counterAfter: number | null };

/** What a worker prints as it begins an act that is long enough to be hit on purpose. */
export const longActLine = "long";

/**
 * Acts under a lock: reads the counter, and writes one more, with nothing that guards it but the lock.
 *
 * It returns before anything else can run in this process, so it is over before the release is sent; and it dies with
 * the process that holds the connection.
 */
export function act(log: OwnerLog, grant: Grant, counterPath: string, random: Random): void {
  log.write({ ...grant, event: "grant" });
  const fd = openSync(counterPath, "r+");
  const counterBefore = readCounter(fd);
  log.write({ ...grant, event: "enter", counterBefore });
  const isLong = random.below(8) === 0;
  if (isLong) writeSync(1, `${longActLine}\n`);
  const microseconds = isLong ? 4000 : 100;
  spin(random.below(microseconds));
  const counterAfter = counterBefore + 1;
  writeSync(fd, Buffer.from(formatCounter(counterAfter)), 0, counterDigits, 0);
  spin(random.below(microseconds));
  log.write({ ...grant, event: "exit", counterAfter });
  closeSync(fd);
}

/** The text of a counter. */
export function formatCounter(value: number): string {
  return String(value).padStart(counterDigits, "0");
}

function readCounter(fd: number): number {
  const bytes = Buffer.alloc(counterDigits);
  readSync(fd, bytes, 0, counterDigits, 0);
  return Number(bytes.toString("latin1"));
}

/** Busy: an act must not give the event loop a turn. */
function spin(microseconds: number): void {
  const end = process.hrtime.bigint() + BigInt(microseconds) * 1000n;
  while (process.hrtime.bigint() < end);
}
