/**
 * `bridge`: stdin and stdout become a connection to the agent, for hosts whose sshd forwards no sockets.
 *
 * @module
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import type { Socket } from "node:net";
import { resolve } from "node:path";
import process from "node:process";
import { connectToAgent } from "../client.ts";
import { environmentOutside } from "../nesting.ts";
import { ownCommand } from "../own_command.ts";
import { clientSockets, type PathOptions, resolvePaths } from "../paths.ts";
import { CommandError, EXIT } from "./exit_codes.ts";

/** How long an agent that was just started may take until it listens, in milliseconds. */
const START_LIMIT_MS = 5_000;

/** Pause between two looks whether it listens, in milliseconds. */
const LOOK_AGAIN_MS = 10;

/** Without it Bun wakes up every second to see whether there is garbage; the unit sets it as well. */
const QUIET_RUNTIME = { BUN_GC_TIMER_DISABLE: "1" };

/** An agent that was started for a bridge ends when nobody has been connected for so long. */
const IDLE_EXIT = "60s";

/**
 * Passes bytes between stdin, the agent, and stdout until one side ends.
 *
 * @param options Where the agent is.
 * @returns The exit code.
 * @throws {CommandError} No agent runs and none could be started.
 */
export async function runBridge(options: PathOptions): Promise<number> {
  const sockets = clientSockets(options);
  const connection = await connectToAgent(sockets);
  const socket = connection.kind === "connected"
    ? connection.socket
    : await startAgentFor(options, connection.reason);
  process.stdin.pipe(socket);
  socket.pipe(process.stdout);
  // Its reader is gone, and so is the session: nothing to tell anyone.
  process.stdout.on("error", () => socket.destroy());
  socket.on("error", () => {/* followed by close */});
  if (!socket.closed) await once(socket, "close");
  return EXIT.ok;
}

/** Two bridges may do this at once: one of the two agents finds the run file locked and ends. */
async function startAgentFor(options: PathOptions, reason: string): Promise<Socket> {
  const { socket } = resolvePaths(options);
  const [program, ...args] = ownCommand();
  const agent = spawn(
    program!,
    [...args, "serve", "--idle-exit", IDLE_EXIT, ...placeArgs(options)],
    {
      stdio: "ignore",
      detached: true,
      cwd: "/",
      // Not this session's: with its marks the agent would end as one of its processes.
      env: { ...environmentOutside(process.env), ...QUIET_RUNTIME },
    },
  );
  agent.on("error", () => {/* seen below as an agent that does not listen */});
  agent.unref();
  const deadline = performance.now() + START_LIMIT_MS;
  while (performance.now() < deadline) {
    const connection = await connectToAgent([socket]);
    if (connection.kind === "connected") return connection.socket;
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
  }
  throw new CommandError(`Cannot reach an agent: ${reason}; none could be started on ${socket}`, {
    hint: "sshlock-agent serve shows why",
  });
}

/** Absolute, because the agent is started elsewhere. */
function placeArgs({ socket, lockDir, runtimeDir, stateDir, holder }: PathOptions): string[] {
  const places = { socket, "lock-dir": lockDir, "runtime-dir": runtimeDir };
  return Object.entries({ ...places, "state-dir": stateDir, holder })
    .flatMap(([option, value]) => value === undefined ? [] : [`--${option}`, resolve(value)]);
}
