/**
 * `list` and `status`: who has which lock, from the agent or, where none runs, from the kernel.
 *
 * @module
 */

import { type StatusParams, type StatusResult } from "../../protocol/messages.ts";
import { readAllPages } from "../../protocol/status_pages.ts";
import { STATUS_HEADINGS, statusRows } from "../../protocol/status_rows.ts";
import { isLockName, LOCK_NAME_RULE } from "../../protocol/lock_name.ts";
import { AgentClient, connectToAgent } from "../client.ts";
import { readHostStatus } from "../host_status.ts";
import { printJson, printLine } from "../output.ts";
import { clientSockets, type PathOptions, resolvePaths } from "../paths.ts";
import { Records } from "../records.ts";
import { CommandError, EXIT } from "./exit_codes.ts";
import { formatTable } from "./table.ts";

/** Options of `list` and `status`. */
export interface StatusOptions {
  /** Only this lock. */
  name: string | undefined;
  /** Whether to print JSON. */
  json?: boolean;
  /** Whether to print headings and totals. */
  legend: boolean;
}

/** A status, and where it comes from. */
export interface Status extends StatusResult {
  /** `agent` where one answered, else `kernel`. */
  source: "agent" | "kernel";
}

/**
 * Prints the locks.
 *
 * @param options Where agent and locks are.
 * @param show What to show and how.
 * @returns The exit code.
 */
export async function runStatus(options: PathOptions, show: StatusOptions): Promise<number> {
  checkName(show.name);
  const status = await readStatus(options, show.name);
  if (show.json === true) printJson(status);
  else printStatus(status, show);
  return EXIT.ok;
}

/**
 * Refuses what is no lock name.
 *
 * @param name What was written, if anything.
 * @throws {CommandError} It is no lock name.
 */
export function checkName(name: string | undefined): void {
  if (name === undefined || isLockName(name)) return;
  throw new CommandError(`Cannot use ${JSON.stringify(name)}: it is no lock name`, {
    hint: `a lock name is ${LOCK_NAME_RULE}`,
  });
}

async function readStatus(options: PathOptions, name: string | undefined): Promise<Status> {
  const { lockDir, runtimeDir } = resolvePaths(options);
  const connection = await connectToAgent(clientSockets(options));
  if (connection.kind === "connected") {
    const client = new AgentClient(connection.socket);
    const ask = (params: StatusParams) => client.request<StatusResult>("status", params);
    const result = await readAllPages(ask, name);
    client.close();
    return { source: "agent", ...result };
  }
  const records = new Records(runtimeDir);
  return { source: "kernel", ...await readHostStatus({ lockDir, records }, { name }) };
}

function printStatus({ locks, notes, source }: Status, { legend, name }: StatusOptions): void {
  const rows = locks.flatMap(statusRows);
  if (rows.length > 0) {
    const table = formatTable(STATUS_HEADINGS, rows, { legend });
    for (const line of table) printLine(line);
  }
  for (const note of notes ?? []) printLine(note);
  if (!legend) return;
  const total = rows.length === 0
    ? name === undefined ? "No locks are held." : `${name} is free.`
    : `\n${locks.length} lock${locks.length === 1 ? "" : "s"} listed.`;
  printLine(source === "agent" ? total : `${total} No agent runs: this is what the kernel says.`);
}
