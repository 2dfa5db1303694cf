/**
 * What a connection is made to, and with what.
 *
 * @module
 */

import type { HostKeyPolicy } from "./host_key.ts";

/** A host and how to log in there. Nothing else is read: no ssh configuration, no key files, no environment. */
export interface Target extends HostKeyPolicy {
  /** Name or address of the host. */
  host: string;
  /** Port of its SSH server; default 22. */
  port?: number | undefined;
  /** The user on the host. */
  username: string;
  /** A private key in PEM or OpenSSH format: the key itself, not its path. */
  privateKey?: string | Uint8Array | undefined;
  /** What the private key is encrypted with. */
  passphrase?: string | undefined;
  /** The user's password. */
  password?: string | undefined;
  /** Path of the socket of a local ssh-agent(1), such as the value of `SSH_AUTH_SOCK`. Not used unless given. */
  sshAgent?: string | undefined;
  /** Path of sshlock-agent's socket on the host; default `/run/sshlock/agent.sock`, then the user's own. */
  agentSocket?: string | undefined;
}

/**
 * `user@host:port`, as messages and caches call a target. IPv6 addresses get brackets.
 *
 * @param target The target.
 */
export function describeTarget({ username, host, port = 22 }: Target): string {
  const place = host.includes(":") ? `[${host}]` : host;
  return `${username}@${place}:${port}`;
}

/**
 * Refuses a target that cannot work, before anything is opened.
 *
 * @param target What the caller gave.
 * @throws {TypeError} Host, user or port are missing or malformed.
 */
export function checkTarget(target: Target): void {
  const { host, port = 22, username } = target;
  if (typeof host !== "string" || host === "") {
    throw new TypeError("Cannot connect: host is missing");
  }
  if (typeof username !== "string" || username === "") {
    throw new TypeError(`Cannot connect to ${host}: username is missing`);
  }
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new TypeError(`Cannot connect to ${host}: port is no number from 1 to 65535`);
  }
}
