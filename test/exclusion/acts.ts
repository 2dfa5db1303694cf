import {
  type DeadEvent,
  type EnterEvent,
  type ExitEvent,
  formatEvent,
  type GrantEvent,
  type HistoryEvent,
  type LossEvent,
  type OwnerEvent,
} from "./history.ts";

/** A rule of the history that was broken. */
export type ViolationKind =
  | "malformed"
  | "clock-backwards"
  | "enter-without-grant"
  | "enter-after-loss"
  | "enter-while-acting"
  | "exit-without-enter"
  | "act-after-death"
  | "token-missing"
  | "token-changed"
  | "token-not-rising"
  | "overlap"
  | "duplicate-read"
  | "wrong-increment"
  | "lost-increment"
  | "no-final-counter";

/** A broken rule, with the two events that break it. */
export interface Violation {
  kind: ViolationKind;
  message: string;
  first: HistoryEvent;
  second: HistoryEvent | undefined;
}

/** What one owner did between its entry and its exit (or its death, or without an end). */
export interface Act {
  enter: EnterEvent;
  exit: ExitEvent | undefined;
  /** Whether it was known to be dead before it exited. */
  dead: DeadEvent | undefined;
}

/** Names both events in the message, as the lines that they were. */
export function violation(
  kind: ViolationKind,
  what: string,
  first: HistoryEvent,
  second?: HistoryEvent,
): Violation {
  const lines = [first, second].filter((event) => event !== undefined).map(formatEvent);
  return { kind, message: `${what}\n  ${lines.join("  ").trimEnd()}`, first, second };
}

/**
 * Follows one owner through one lock, in the order in which it wrote its log.
 *
 * A grant is good for one entry. A loss takes the grant back, but an act that has begun goes on until its exit: what
 * the owner was told does not end what it does.
 */
export function actsOf(
  events: readonly OwnerEvent[],
  dead: DeadEvent | undefined,
  report: (violation: Violation) => void,
): Act[] {
  const acts: Act[] = [];
  let acting: Act | undefined;
  let granted: GrantEvent | undefined;
  let lost: LossEvent | undefined;
  for (const event of events) {
    if (dead !== undefined && event.tMonoNs > dead.tMonoNs) {
      report(violation("act-after-death", `${event.owner} acts after its death`, dead, event));
    }
    if (event.event === "grant") {
      [granted, lost] = [event, undefined];
    } else if (event.event === "loss") {
      [granted, lost] = [undefined, event];
    } else if (event.event === "enter") {
      if (acting !== undefined) {
        const what = `${event.owner} enters without having left`;
        report(violation("enter-while-acting", what, acting.enter, event));
      }
      checkGrant(event, granted, lost, report);
      granted = undefined;
      acting = { enter: event, exit: undefined, dead };
      acts.push(acting);
    } else if (acting === undefined) {
      report(
        violation("exit-without-enter", `${event.owner} leaves without having entered`, event),
      );
    } else {
      checkExit(acting.enter, event, report);
      acting.exit = event;
      acting = undefined;
    }
  }
  return acts;
}

function checkGrant(
  enter: EnterEvent,
  granted: GrantEvent | undefined,
  lost: LossEvent | undefined,
  report: (violation: Violation) => void,
): void {
  const { owner, token, way } = enter;
  if (lost !== undefined) {
    report(violation("enter-after-loss", `${owner} enters after its loss`, lost, enter));
  } else if (granted === undefined) {
    report(violation("enter-without-grant", `${owner} enters without a grant of its own`, enter));
  } else if (granted.token !== token || granted.mode !== enter.mode) {
    report(violation("token-changed", `${owner} enters with another token`, granted, enter));
  }
  if (token === null && (way === "agent" || way === "bridge")) {
    report(violation("token-missing", `${owner} was granted no token by its agent`, enter));
  }
}

function checkExit(enter: EnterEvent, exit: ExitEvent, report: (v: Violation) => void): void {
  if (exit.token !== enter.token || exit.mode !== enter.mode) {
    report(violation("token-changed", `${exit.owner} leaves with another token`, enter, exit));
  }
  if (enter.mode === "exclusive" && exit.counterAfter !== (enter.counterBefore ?? NaN) + 1) {
    report(violation("wrong-increment", `${exit.owner} did not add one`, enter, exit));
  }
}
