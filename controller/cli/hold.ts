/**
 * `sshlock hold`: a lock of a host, for as long as this runs.
 *
 * @module
 */

import { once } from "node:events";

import { describeMs } from "../../protocol/messages.ts";
import { connect } from "../connect.ts";
import type { Lock } from "../lock.ts";
import { EXIT } from "./exit_codes.ts";
import {
  type ClaimArguments,
  type ConnectArguments,
  connectOptionsOf,
  takeoverOptionsOf,
  targetOf,
  waitMsOf,
} from "./options.ts";
import { printJson, printLine, printNote } from "./output.ts";
import { passStopsOn } from "./pass_stops_on.ts";
import { claim } from "./run.ts";
import { StoppedError, watchStopSignals } from "./stop_signals.ts";

/** What was written after `hold`. */
export interface HoldArguments extends ConnectArguments, ClaimArguments {
  /** The lock. */
  name: string;
  json?: boolean | undefined;
}

/**
 * Claims a lock, says what is held, and holds it until it is interrupted or lost.
 *
 * @param args What was written.
 * @returns 0 after an interrupt.
 * @throws {LockLostError} It was lost.
 */
export async function holdLock(args: HoldArguments): Promise<number> {
  const waitMs = waitMsOf(args);
  takeoverOptionsOf(args);
  await using stop = watchStopSignals();
  const { signal } = stop;
  const options = { ...connectOptionsOf(args), signal };
  await using session = await connect(targetOf(args), options);
  // As in `run`: closing the session releases it.
  const lock = await claim(session, args, waitMs, signal);
  // First: who reads that it is held may press ^Z at once.
  passStopsOn(lock);
  printLock(lock, session.host, args.json === true);
  const end = AbortSignal.any([signal, lock.signal]);
  if (!end.aborted) await once(end, "abort");
  if (end.reason instanceof StoppedError) return EXIT.ok;
  throw end.reason;
}

function printLock(lock: Lock, host: string, json: boolean): void {
  const { name, token, holderPid, way, reduced, waitedMs, takenFrom, unparked } = lock;
  if (json) {
    const facts = { host, name, token: token ?? null, holderPid, way, reduced, waitedMs };
    return printJson({ ...facts, takenFrom, unparked });
  }
  const what = token === undefined ? "" : `token ${token}, `;
  const waited = waitedMs < 1_000 ? "" : ` after ${describeMs(waitedMs)}`;
  printLine(`${name} on ${host}: ${what}holder ${holderPid}${waited}`);
  for (const sentence of reduced) printNote(`by the shell protocol: ${sentence}`);
  printNote("held until ^C");
}
