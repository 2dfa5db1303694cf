/**
 * Locks as rows of a table: both command lines show the same.
 *
 * @module
 */

import {
  describeAwaited,
  describeMs,
  type HolderFacts,
  type LockFacts,
  type OwnHolder,
} from "./messages.ts";

/** The headings of a table of locks. */
export const STATUS_HEADINGS = ["NAME", "OWNER", "USER", "PID", "FOR", "TOKEN", "MODE", "WHY"];

/**
 * The rows of a lock under {@linkcode STATUS_HEADINGS}: its holders, then its waiters.
 *
 * @param lock The lock.
 */
export function statusRows({ name, holders, waiters }: LockFacts): string[][] {
  const waiting = waiters.map((waiter) => [
    name,
    waiter.owner,
    String(waiter.uid),
    "-",
    describeMs(waiter.waitedMs),
    "-",
    waiter.takeover === undefined ? "waits" : "takes over",
    waiter.takeover ?? waiter.purpose ?? "",
  ]);
  return [...holders.map((holder) => rowOf(name, holder)), ...waiting];
}

function rowOf(name: string, holder: HolderFacts): string[] {
  const mode = holder.shared === true ? "shared" : "exclusive";
  if (holder.kind === "own") {
    const { owner, user, uid, holderPid, heldMs, token, state } = holder;
    const shown = state === "held" ? mode : state;
    const why = whyOf(holder);
    return [
      name,
      owner,
      user ?? `${uid}`,
      `${holderPid}`,
      describeMs(heldMs),
      `${token}`,
      shown,
      why,
    ];
  }
  const { record, pid, uid, user, command, hiddenBecause } = holder;
  return [
    name,
    record?.owner ?? "(foreign)",
    user ?? String(uid ?? "-"),
    String(pid ?? "-"),
    record === undefined ? "-" : describeMs(Math.max(0, Date.now() - record.since)),
    String(record?.token ?? "-"),
    mode,
    record?.purpose ?? command ?? hiddenBecause ?? "",
  ];
}

/** The purpose, and where the session is over, what stands between the lock and the next claim. */
function whyOf({ state, purpose, awaiting, parkedForMs }: OwnHolder): string {
  const note = state === "ending"
    ? describeAwaited(awaiting ?? [])
    : state === "parked"
    ? `reserved for ${describeMs(parkedForMs ?? 0)}`
    : undefined;
  return [purpose, note].filter((part) => part !== undefined).join("; ");
}
