/**
 * `break`: ends the session that has a lock, and with it the lock.
 *
 * @module
 */

import { WireError } from "../../protocol/wire_error.ts";
import { AgentClient, connectToAgent } from "../client.ts";
import { printLine } from "../output.ts";
import { clientSockets, type PathOptions } from "../paths.ts";
import { CommandError, EXIT } from "./exit_codes.ts";
import { checkName } from "./status.ts";

/**
 * Breaks a lock. It is free for others once the processes of its session are gone.
 *
 * @param options Where the agent is.
 * @param name The lock.
 * @param why The reason; it is logged, and told to the session that loses the lock.
 * @returns The exit code.
 * @throws {CommandError} No agent runs, nobody has the lock, or it is not this user's to break.
 */
export async function runBreak(options: PathOptions, name: string, why: string): Promise<number> {
  checkName(name);
  const connection = await connectToAgent(clientSockets(options));
  if (connection.kind === "absent") {
    throw new CommandError(`Cannot break "${name}": no agent runs (${connection.reason})`, {
      hint: "sshlock-agent status shows the holder's pid; end its session by hand",
    });
  }
  const client = new AgentClient(connection.socket);
  try {
    const { broken } = await client.request<{ broken: string[] }>("break", { name, reason: why });
    printLine(`Ending the session of ${broken.join(", ")}; "${name}" is free when it is gone.`);
    return EXIT.ok;
  } catch (error) {
    throw error instanceof WireError ? new CommandError(error.message, { cause: error }) : error;
  } finally {
    client.close();
  }
}
