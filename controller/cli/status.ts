/**
 * `sshlock status`: who has which lock on a host.
 *
 * @module
 */

import { isLockName, LOCK_NAME_RULE } from "../../protocol/lock_name.ts";
import type { StatusResult } from "../../protocol/messages.ts";
import { STATUS_HEADINGS, statusRows } from "../../protocol/status_rows.ts";
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
  checkName("show", name);
  const target = targetOf(args);
  await using stop = watchStopSignals();
  const options = { ...connectOptionsOf(args), signal: stop.signal };
  await using session = await connect(target, options);
  const status = await session.status(name);
  if (args.json) printJson({ host: session.host, way: session.way, ...status });
  else printStatus(status, session.host, args);
  return EXIT.ok;
}

/**
 * Refuses what is no lock name before anything is connected.
 *
 * @param verb What is to be done with it, for the error.
 * @param name What was written, if anything.
 * @throws {UsageError} It is no lock name.
 */
export function checkName(verb: string, name: string | undefined): void {
  if (name === undefined || isLockName(name)) return;
  const message = `Cannot ${verb} ${JSON.stringify(name)}: it is no lock name`;
  throw new UsageError(message, `a lock name is ${LOCK_NAME_RULE}`);
}

function printStatus({ locks, notes }: StatusResult, host: string, args: StatusArguments): void {
  const { name, legend = true } = args;
  const rows = locks.flatMap(statusRows);
  if (rows.length > 0) {
    for (const line of formatTable(STATUS_HEADINGS, rows, legend)) printLine(line);
  }
  if (!legend) return;
  if (rows.length === 0) {
    printLine(name === undefined ? `No locks are held on ${host}.` : `${name} on ${host} is free.`);
  } else {
    printLine(`\n${locks.length} lock${locks.length === 1 ? "" : "s"} on ${host}.`);
  }
  for (const note of notes ?? []) printLine(`Note: ${note}.`);
}
