/**
 * The history of an exclusion run: what each owner did under a lock, when, and with which token.
 *
 * One JSON object a line. Each owner appends to a log of its own, the driver to another one. Times are
 * CLOCK_MONOTONIC in nanoseconds (`process.hrtime.bigint()`), which all processes of one host share, so the
 * logs can be compared with each other. In a line they are strings: a JSON number would lose digits.
 */

/** How an owner claims the lock. The first two get tokens. */
export type Way = "agent" | "bridge" | "shell" | "flock";

/** Shared owners may overlap each other. */
export type Mode = "exclusive" | "shared";

/** What the events of an owner have in common. */
export interface OwnerFields {
  /** One process; a process that takes the place of a dead one is another owner. */
  owner: string;
  lock: string;
  way: Way;
  mode: Mode;
  /** `null` for the ways without tokens. */
  token: number | null;
  tMonoNs: bigint;
}

/** The claim was answered with the lock. */
export interface GrantEvent extends OwnerFields {
  event: "grant";
}

/** The owner begins to act: stamped after the grant came. */
export interface EnterEvent extends OwnerFields {
  event: "enter";
  /** The counter as this owner read it; `null` in shared mode, which does not count. */
  counterBefore: number | null;
}

/** The owner has acted: stamped before it sends the release. */
export interface ExitEvent extends OwnerFields {
  event: "exit";
  counterAfter: number | null;
}

/** The owner was told that its lock is lost. */
export interface LossEvent extends OwnerFields {
  event: "loss";
}

/** The owner is known to do nothing any more from this instant on: killed, or stopped and never continued. */
export interface DeadEvent {
  event: "dead";
  owner: string;
  tMonoNs: bigint;
}

/** The counter at the end, read when nobody acts any more. */
export interface FinalEvent {
  event: "final";
  lock: string;
  counter: number;
}

/** A line that is none of the above. */
export interface MalformedEvent {
  event: "malformed";
  line: string;
  reason: string;
}

/** Events of a lock's owner. */
export type OwnerEvent = GrantEvent | EnterEvent | ExitEvent | LossEvent;

/** One line of a history. */
export type HistoryEvent = OwnerEvent | DeadEvent | FinalEvent | MalformedEvent;

const ways: readonly unknown[] = ["agent", "bridge", "shell", "flock"];
const modes: readonly unknown[] = ["exclusive", "shared"];

/** Writes an event as a line, with its newline. */
export function formatEvent(event: HistoryEvent): string {
  const toText = (_: string, value: unknown) => typeof value === "bigint" ? String(value) : value;
  return `${JSON.stringify(event, toText)}\n`;
}

/** Reads a log. It never throws: what is no event becomes a malformed one, which the checker rejects. */
export function parseHistory(text: string): HistoryEvent[] {
  const lines = text.split("\n");
  const rest = lines.pop();
  if (rest !== undefined && rest !== "") lines.push(`${rest} (without newline)`);
  return lines.map(parseLine);
}

function parseLine(line: string): HistoryEvent {
  try {
    return toEvent(JSON.parse(line) as Record<string, unknown>);
  } catch (error) {
    return { event: "malformed", line, reason: (error as Error).message };
  }
}

function toEvent(value: Record<string, unknown>): HistoryEvent {
  if (typeof value !== "object" || value === null) throw new TypeError("no object");
  switch (value.event) {
    case "grant":
    case "loss":
      return { event: value.event, ...ownerFields(value) };
    case "enter":
      return {
        event: "enter",
        ...ownerFields(value),
        counterBefore: counterIn(value.counterBefore),
      };
    case "exit":
      return { event: "exit", ...ownerFields(value), counterAfter: counterIn(value.counterAfter) };
    case "dead":
      return { event: "dead", owner: textIn(value.owner), tMonoNs: timeIn(value.tMonoNs) };
    case "final":
      return { event: "final", lock: textIn(value.lock), counter: integerIn(value.counter) };
    default:
      throw new TypeError("no known event");
  }
}

function ownerFields(value: Record<string, unknown>): OwnerFields {
  if (!ways.includes(value.way)) throw new TypeError("no known way");
  if (!modes.includes(value.mode)) throw new TypeError("no known mode");
  return {
    owner: textIn(value.owner),
    lock: textIn(value.lock),
    way: value.way as Way,
    mode: value.mode as Mode,
    token: value.token === null ? null : integerIn(value.token),
    tMonoNs: timeIn(value.tMonoNs),
  };
}

function textIn(value: unknown): string {
  if (typeof value !== "string" || value === "") throw new TypeError("no owner or lock");
  return value;
}

function integerIn(value: unknown): number {
  if (!Number.isSafeInteger(value)) throw new TypeError("no integer");
  return value as number;
}

function counterIn(value: unknown): number | null {
  return value === null ? null : integerIn(value);
}

function timeIn(value: unknown): bigint {
  if (typeof value !== "string" || !/^\d+$/.test(value)) throw new TypeError("no time");
  return BigInt(value);
}
