/**
 * The second way to an agent: `sshlock-agent bridge` over exec, where the host forbids streamlocal
 * channels or the agent is the user's own.
 *
 * @module
 */

import { PassThrough } from "node:stream";

import type { Link, LinkEnd } from "./agent_client.ts";
import { ServiceMissingError } from "./lock_service.ts";
import { keepTail, readMarkedLines } from "./marked_lines.ts";
import { quote } from "./quote.ts";
import {
  ChannelRefusedError,
  type RemoteExit,
  type RemoteProcess,
  type SshTransport,
} from "./ssh_transport.ts";

const MARK = "sshlock-bridge:";

/** What a shell exits with when a program is not there. */
const NOT_FOUND = 127;

/** A link through a bridge. */
export interface BridgeLink extends Link {
  /** Calls back with the host's XDG_RUNTIME_DIR for this user, where there is one. */
  onRuntimeDir(callback: (path: string) => void): void;
}

/**
 * Starts the bridge on the host.
 *
 * What is said to it may be sent at once: if the bridge turns out to be missing, nobody has read it.
 *
 * @param transport The SSH connection.
 * @param socketPath The agent's socket, where it is not one of the usual ones.
 * @throws {ServiceMissingError} The host does not start commands.
 * @throws {ConnectError} The SSH connection is over.
 */
export async function openBridge(
  transport: SshTransport,
  socketPath?: string,
): Promise<BridgeLink> {
  try {
    return linkOf(await transport.exec(bridgeCommand(socketPath)));
  } catch (error) {
    if (!(error instanceof ChannelRefusedError)) throw error;
    throw new ServiceMissingError(`the host refused to start a command (${error.message})`, {
      cause: error,
    });
  }
}

/** Shells that are no login shells often lack both folders in PATH. One `exec`, so no process is left over. */
function bridgeCommand(socketPath: string | undefined): string {
  const socket = socketPath === undefined ? "" : ` --socket ${quote(socketPath)}`;
  const script = [
    `PATH="$PATH:/usr/local/bin:$HOME/.local/bin"`,
    `echo "${MARK}$XDG_RUNTIME_DIR"`,
    `exec sshlock-agent bridge${socket}`,
  ].join("; ");
  return `exec sh -c ${quote(script)}`;
}

function linkOf(process: RemoteProcess): BridgeLink {
  const input = new PassThrough();
  const stderr = keepTail(process.stderr);
  let runtimeDir: string | undefined;
  let hasStarted = false;
  let tell = (_path: string) => {};
  readMarkedLines(process.stdout, MARK, (path) => {
    hasStarted = true;
    runtimeDir = path;
    if (path.startsWith("/")) tell(path);
    return "stop";
  }, (chunk) => input.write(chunk));
  return {
    input,
    output: process.stdin,
    closed: process.closed.then((exit) => describeEnd(exit, hasStarted, stderr())),
    close: () => {
      process.stdin.end();
      process.close();
    },
    onRuntimeDir: (callback) => {
      tell = callback;
      if (runtimeDir?.startsWith("/")) callback(runtimeDir);
    },
  };
}

function describeEnd({ exitCode }: RemoteExit, hasStarted: boolean, stderr: string): LinkEnd {
  if (!hasStarted) {
    const detail = `the user's shell does not run commands (exit code ${exitCode}) ${stderr}`;
    return { detail: detail.trim(), isMissing: true };
  }
  if (exitCode === NOT_FOUND) {
    return { detail: "sshlock-agent is not installed for this user", isMissing: true };
  }
  // An agent that is installed and fails is not passed over: the way after it has no tokens.
  const said = stderr === "" ? "" : `: ${stderr}`;
  const detail = `the bridge on the host ended with exit code ${exitCode}${said}`;
  return { detail, isMissing: false };
}
