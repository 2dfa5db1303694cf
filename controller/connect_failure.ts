/**
 * Says what stood in the way of a connection, in the words of sshlock instead of those of a library.
 *
 * @module
 */

import { ConnectError, type ConnectFailure } from "./errors.ts";
import { describeTarget, type Target } from "./target.ts";

/** What an SSH library or a socket throws. */
interface Failure {
  code?: string | number;
  level?: string;
  message: string;
}

const SYSTEM_ERRORS: Record<string, [ConnectFailure, string]> = {
  ECONNREFUSED: ["refused", "connection refused"],
  ECONNRESET: ["closed", "the host reset the connection"],
  EPIPE: ["closed", "the host closed the connection"],
  EHOSTUNREACH: ["no-route", "no route to the host"],
  ENETUNREACH: ["no-route", "no route to its network"],
  ENOTFOUND: ["name-not-found", "its name is unknown"],
  EAI_AGAIN: ["name-not-found", "its name could not be looked up now"],
  ETIMEDOUT: ["timeout", "no answer"],
};

/**
 * The error for a failure of an SSH connection.
 *
 * @param target Where to.
 * @param cause What was thrown.
 * @param isOpen Whether the connection had been open before.
 */
export function connectFailure(target: Target, cause: unknown, isOpen: boolean): ConnectError {
  if (cause instanceof ConnectError) return cause;
  const [kind, state] = describe(target, cause as Failure);
  const action = isOpen ? "Lost the connection to" : "Cannot connect to";
  const name = describeTarget(target);
  return new ConnectError(kind, name, `${action} ${name}: ${state}`, { cause });
}

function describe(target: Target, failure: Failure): [ConnectFailure, string] {
  const system = SYSTEM_ERRORS[String(failure.code)];
  if (system !== undefined) return system;
  if (failure.level === "client-authentication") {
    return ["authentication", `the host does not accept ${describeCredentials(target)}`];
  }
  if (failure.level === "agent") {
    return ["authentication", `ssh-agent at ${target.sshAgent} failed (${failure.message})`];
  }
  if (failure.level === "client-timeout") return ["timeout", "the host does not answer any more"];
  if (/private ?key|passphrase/i.test(failure.message)) {
    return ["authentication", `the private key cannot be used (${failure.message})`];
  }
  if (/before handshake/.test(failure.message)) {
    return ["closed", "the host closed the connection before it said anything of SSH"];
  }
  return ["protocol", failure.message];
}

function describeCredentials({ username, privateKey, sshAgent, password }: Target): string {
  const given = [
    privateKey === undefined ? [] : "the private key",
    sshAgent === undefined ? [] : "any key of the ssh-agent",
    password === undefined ? [] : "the password",
  ].flat();
  if (given.length === 0) return `${username} without a key or a password`;
  return `${given.join(" or ")} for ${username}`;
}
