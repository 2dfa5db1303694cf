/**
 * `sshlock watch`: the locks of a host, then each change of them.
 *
 * @module
 */

import { changeLine, stateLine } from "../../protocol/watch_lines.ts";
import { connect } from "../connect.ts";
import type { WatchEvent } from "../watch.ts";
import { EXIT } from "./exit_codes.ts";
import { type ConnectArguments, connectOptionsOf, targetOf } from "./options.ts";
import { passToStdout, printNote, tame } from "./output.ts";
import { checkName } from "./status.ts";
import { watchStopSignals } from "./stop_signals.ts";

/** What was written after `watch`. */
export interface WatchArguments extends ConnectArguments {
  /** The one lock that is watched. */
  name?: string | undefined;
  json?: boolean | undefined;
}

/**
 * Prints the locks of a host, then each change, until it is interrupted.
 *
 * @param args What was written.
 * @throws {AgentError} No agent runs there, or it did not come back.
 * @throws {StoppedError} It was interrupted.
 */
export async function watchLocks(args: WatchArguments): Promise<number> {
  checkName("watch", args.name);
  const target = targetOf(args);
  await using stop = watchStopSignals();
  const { signal } = stop;
  await using session = await connect(target, { ...connectOptionsOf(args), signal });
  for await (const event of session.watch(args.name, { signal })) {
    const lines = args.json ? jsonLines(event) : plainLines(event);
    // With an error where nobody reads it any more.
    if (lines.length > 0) await passToStdout(lines.map((line) => `${line}\n`).join(""));
  }
  return EXIT.ok;
}

/** One object a line, as `sshlock-agent watch --json` prints them. */
function jsonLines(event: WatchEvent): string[] {
  if (event.event !== "state") return [JSON.stringify(event)];
  const { interruption: detail, locks } = event;
  const restart = detail === undefined ? [] : [{ event: "interruption", detail }];
  const states = locks.map((lock) => ({ event: "state", lock }));
  return [...restart, ...states].map((line) => JSON.stringify(line));
}

function plainLines(event: WatchEvent): string[] {
  if (event.event !== "state") return [tame(changeLine(event))];
  const { interruption, locks } = event;
  if (interruption !== undefined) printNote(`changes may be missing here: ${interruption}`);
  return locks.map((lock) => tame(stateLine(lock)));
}
