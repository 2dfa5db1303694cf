/**
 * `sshlock break`: ends the session that has a lock of a host, and with it the lock.
 *
 * @module
 */

import { connect } from "../connect.ts";
import { EXIT } from "./exit_codes.ts";
import { type ConnectArguments, connectOptionsOf, targetOf } from "./options.ts";
import { printLine, tame } from "./output.ts";
import { checkName } from "./status.ts";
import { watchStopSignals } from "./stop_signals.ts";

/** What was written after `break`. */
export interface BreakArguments extends ConnectArguments {
  /** The lock. */
  name: string;
  why: string;
}

/**
 * Breaks a lock. It is free for others once the processes of its session are gone.
 *
 * @param args What was written.
 * @returns 0: the end has begun.
 * @throws {AgentError} Nobody has it, it is not this user's to break, or no agent runs there.
 */
export async function breakLock(args: BreakArguments): Promise<number> {
  const { name, why } = args;
  checkName("break", name);
  const target = targetOf(args);
  await using stop = watchStopSignals();
  const options = { ...connectOptionsOf(args), signal: stop.signal };
  await using session = await connect(target, options);
  const owners = tame((await session.break(name, why)).join(", "));
  printLine(`Ending the session of ${owners}; "${name}" is free when it is gone.`);
  return EXIT.ok;
}
