/**
 * `sshlock status`: who has which lock on a host.
 *
 * @module
 */

import { isLockName, LOCK_NAME_RULE } from "../../protocol/lock_name.ts";
import {
  describeMs,
  type HolderFacts,
  type LockFacts,
  type StatusResult,
  type WaiterFacts,
} from "../../protocol/messages.ts";
import { connect } from "../connect.ts";
import { EXIT, UsageError } from "./exit_codes.ts";
import { type ConnectArguments, connectOptionsOf, targetOf } from "./options.ts";
import { printJson, printLine } from "./output.ts";
import { watchStopSignals } from "./stop_signals.ts";
import { formatTable } from "./table.ts";

/** What was written after `status`. */
export interface StatusArguments extends ConnectArguments {
  /** The one lock that is asked for. */
  name?: string | undefined;
  json?: boolean | undefined;
  legend?: boolean | undefined;
}

/**
 * Prints the locks of a host.
 *
 * @param args What was written.
 * @returns 0.
 */
export async function showStatus(args: StatusArguments): Promise<number> {
  const { name } = args;
  if (name !== undefined && !isLockName(name)) {
    const message = `Cannot show ${JSON.stringify(name)}: it is no lock name`;
    throw new UsageError(message, `a lock name is ${LOCK_NAME_RULE}`);
  }
  const target = targetOf(args);
  await using stop = watchStopSignals();
  const options = { ...connectOptionsOf(args), signal: stop.signal };
  await using session = await connect(target, options);
  const status = await session.status(name);
  if (args.json) printJson({ host: session.host, way: session.way, ...status });
  else printStatus(status, session.host, args);
  return EXIT.ok;
}

const HEADINGS = ["NAME", "OWNER", "USER", "PID", "FOR", "TOKEN", "MODE", "WHY"];

function printStatus({ locks, notes }: StatusResult, host: string, args: StatusArguments): void {
  const { name, legend = true } = args;
  const rows = locks.flatMap((lock) => rowsOf(lock));
  if (rows.length > 0) {
    for (const line of formatTable(HEADINGS, rows, legend)) printLine(line);
  }
  if (!legend) return;
  if (rows.length === 0) {
    printLine(name === undefined ? `No locks are held on ${host}.` : `${name} on ${host} is free.`);
  } else {
    printLine(`\n${locks.length} lock${locks.length === 1 ? "" : "s"} on ${host}.`);
  }
  for (const note of notes ?? []) printLine(`Note: ${note}.`);
}

function rowsOf({ name, holders, waiters }: LockFacts): string[][] {
  return [
    ...holders.map((holder) => holderRow(name, holder)),
    ...waiters.map((waiter) => waiterRow(name, waiter)),
  ];
}

function holderRow(name: string, holder: HolderFacts): string[] {
  const mode = holder.shared === true ? "shared" : "exclusive";
  if (holder.kind === "own") {
    const { owner, user, uid, holderPid, heldMs, token, purpose = "" } = holder;
    const forMs = describeMs(heldMs);
    return [name, owner, user ?? `${uid}`, `${holderPid}`, forMs, `${token}`, mode, purpose];
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

function waiterRow(name: string, { owner, uid, waitedMs, purpose = "" }: WaiterFacts): string[] {
  return [name, owner, String(uid), "-", describeMs(waitedMs), "-", "waits", purpose];
}
