/**
 * `watch`: prints each change of the locks as it happens.
 *
 * @module
 */

import type {
  ChangeParams,
  LockFacts,
  StatusParams,
  StatusResult,
} from "../../protocol/messages.ts";
import { readAllPages } from "../../protocol/status_pages.ts";
import { changeLine, stateLine } from "../../protocol/watch_lines.ts";
import { AgentClient, connectToAgent } from "../client.ts";
import { printJson, printLine } from "../output.ts";
import { clientSockets, type PathOptions } from "../paths.ts";
import { CommandError, EXIT } from "./exit_codes.ts";
import { checkName } from "./status.ts";

/** Options of `watch`. */
export interface WatchOptions {
  /** Only this lock. */
  name: string | undefined;
  /** Whether to print JSON. */
  json: boolean;
}

/**
 * Prints the locks as they are, then each change, until the agent ends or the reader goes.
 *
 * @param options Where the agent is.
 * @param watch What to watch and how to print it.
 * @returns The exit code: failure when the agent has ended.
 * @throws {CommandError} No agent runs: the kernel alone tells of no changes.
 */
export async function runWatch(options: PathOptions, watch: WatchOptions): Promise<number> {
  checkName(watch.name);
  const connection = await connectToAgent(clientSockets(options));
  if (connection.kind === "absent") {
    throw new CommandError(`Cannot watch locks: no agent runs (${connection.reason})`, {
      hint: "sshlock-agent list asks the kernel instead",
    });
  }
  const client = new AgentClient(connection.socket);
  const closed = new Promise<void>((resolve) => client.onClose = () => resolve());
  client.onNotification = (method, params) => {
    if (method === "change") printChange(params as ChangeParams, watch);
  };
  const params = watch.name === undefined ? {} : { name: watch.name };
  const first = await client.request<StatusResult>("watch", params);
  const ask = (params: StatusParams) => client.request<StatusResult>("status", params);
  const { locks } = await readAllPages(ask, watch.name, first);
  for (const lock of locks) printState(lock, watch);
  await closed;
  throw new CommandError("Cannot watch any longer: the agent has ended", {
    exitCode: EXIT.failure,
  });
}

function printState(lock: LockFacts, { json }: WatchOptions): void {
  if (json) printJson({ event: "state", lock });
  else printLine(stateLine(lock));
}

function printChange(change: ChangeParams, { json }: WatchOptions): void {
  if (json) printJson(change);
  else printLine(changeLine(change));
}
