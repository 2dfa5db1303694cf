/**
 * The first way to an agent: an SSH channel straight to its socket. No process is started on the host.
 *
 * @module
 */

import type { Duplex } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";

import type { Link, LinkEnd } from "./agent_client.ts";
import { ServiceMissingError } from "./lock_service.ts";
import { ChannelRefusedError, type SshTransport } from "./ssh_transport.ts";

/**
 * Waits before another try, in milliseconds. A full backlog of the agent's socket (EAGAIN) and a
 * missing agent are one and the same refusal to us, so only a socket that has worked before is
 * tried again; where it never has, the bridge, which can tell, is the better next try.
 */
const RETRY_DELAYS_MS = [5, 20, 80];

/**
 * Opens a channel to the agent's socket.
 *
 * @param transport The SSH connection.
 * @param socketPath The agent's socket on the host.
 * @param hasWorked Whether this socket has worked before.
 * @throws {ServiceMissingError} The host forbids it, or nothing listens there.
 * @throws {ConnectError} The SSH connection is over.
 */
export async function openStreamlocal(
  transport: SshTransport,
  socketPath: string,
  hasWorked: boolean,
): Promise<Link> {
  for (const retryMs of [...(hasWorked ? RETRY_DELAYS_MS : []), undefined]) {
    try {
      return linkOf(await transport.openSocket(socketPath));
    } catch (error) {
      if (!(error instanceof ChannelRefusedError)) throw error;
      // 1: administratively prohibited. That does not pass.
      if (retryMs === undefined || error.reason === 1) {
        const detail = `the host refused a channel to ${socketPath} (${error.message})`;
        throw new ServiceMissingError(detail, { cause: error });
      }
      await delay(retryMs);
    }
  }
  throw new Error("unreachable");
}

function linkOf(channel: Duplex): Link {
  const end: LinkEnd = { detail: "the agent closed the connection", isMissing: true };
  const closed = new Promise<LinkEnd>((resolve) => channel.once("close", () => resolve(end)));
  channel.on("error", () => {});
  // Half-open is of no use to us: the agent is gone.
  channel.once("end", () => channel.destroy());
  return { input: channel, output: channel, closed, close: () => channel.destroy() };
}
