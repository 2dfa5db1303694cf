import { formatEvent, type HistoryEvent } from "./history.ts";

/** A rule of the history that was broken. */
export type ViolationKind =
  /** A line that is no event, or an event that no client can have written in that order. */
  | "malformed"
  /** Something acted for a claim that had not been granted. */
  | "act-without-grant"
  /** Two owners had one lock at the same time, or something of an earlier one acted after the grant to a later one. */
  | "overlap"
  /** A way of the agent's granted without a token. */
  | "token-missing"
  /** One token was given to two ownerships. */
  | "token-reused"
  /** A later ownership has a lower token than an earlier one. */
  | "token-not-rising"
  /** A claim joined the lock of another owner, user or mode. */
  | "joined-stranger"
  /** A claim joined a lock that no session of its owner had any longer. */
  | "joined-nobody"
  /** A claim was granted before one that had waited longer at the agent. */
  | "overtaken";

/** A broken rule, with the events that break it. */
export interface Violation {
  kind: ViolationKind;
  message: string;
}

/** Where broken rules go. */
export type Report = (violation: Violation) => void;

/** Names the events in the message, as the lines that they were. */
export function violation(
  kind: ViolationKind,
  what: string,
  ...events: (HistoryEvent | undefined)[]
): Violation {
  const lines = events.filter((event) => event !== undefined).map(formatEvent);
  return { kind, message: `${what}\n  ${lines.join("  ").trimEnd()}` };
}
