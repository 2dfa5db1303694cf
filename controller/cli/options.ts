/**
 * The options that the subcommands of `sshlock` share, and what they come to.
 *
 * @module
 */

import { hostname, userInfo } from "node:os";
import process from "node:process";
import { readFileSync } from "node:fs";

import type { Options } from "yargs";

import type { ClaimOptions } from "../claim.ts";
import type { ConnectOptions } from "../connect.ts";
import type { Target } from "../target.ts";
import { type Way, WAYS } from "../way.ts";
import { parseDestination } from "./destination.ts";
import { parseDuration } from "./duration.ts";
import { UsageError } from "./exit_codes.ts";

/** How to connect: options of every subcommand. */
export const CONNECT_OPTIONS = {
  "identity": {
    alias: "i",
    type: "string",
    requiresArg: true,
    describe: "File with the private key",
  },
  "port": {
    alias: "p",
    type: "number",
    requiresArg: true,
    describe: "Port of the SSH server [22]",
  },
  "ssh-agent": { type: "boolean", describe: "Use the keys of the agent at $SSH_AUTH_SOCK" },
  "fingerprint": {
    type: "string",
    array: true,
    nargs: 1,
    requiresArg: true,
    describe: "The host key that is right, SHA256:…",
  },
  "accept-new": { type: "boolean", describe: "Trust whatever host key is shown" },
  "transport": {
    choices: [...WAYS],
    requiresArg: true,
    describe: "Only this way to the locks of the host",
  },
  "agent-socket": {
    type: "string",
    requiresArg: true,
    describe: "Socket of sshlock-agent on the host",
  },
  "connect-timeout": {
    type: "string",
    requiresArg: true,
    describe: "Time to connect [10s]",
  },
} as const satisfies Record<string, Options>;

/** How to claim: options of `run` and `hold`. */
export const CLAIM_OPTIONS = {
  "wait": {
    alias: "w",
    type: "string",
    requiresArg: true,
    describe: "Wait so long for the lock: 500ms, 30s, 2m",
  },
  "nonblock": { alias: "n", type: "boolean", describe: "Do not wait for the lock (the default)" },
  "shared": { alias: "s", type: "boolean", describe: "Share the lock with other shared claims" },
  "owner": {
    type: "string",
    requiresArg: true,
    describe: "Who claims [you@this-machine]",
  },
  "why": { type: "string", requiresArg: true, describe: "What for: others who want it see this" },
  "takeover": {
    type: "string",
    requiresArg: true,
    describe: "Ask for its release, and say why",
  },
  "takeover-deadline": {
    type: "string",
    requiresArg: true,
    describe: "Time to release it, then force [10s]",
  },
  "park": {
    type: "string",
    requiresArg: true,
    describe: "Reserve it so long when the link drops",
  },
} as const satisfies Record<string, Options>;

/** What the connection options are parsed to. */
export interface ConnectArguments {
  /** The destination. */
  host: string;
  identity?: string | undefined;
  port?: number | undefined;
  "ssh-agent"?: boolean | undefined;
  fingerprint?: string[] | undefined;
  "accept-new"?: boolean | undefined;
  transport?: Way | undefined;
  "agent-socket"?: string | undefined;
  "connect-timeout"?: string | undefined;
}

/** What the claim options are parsed to. */
export interface ClaimArguments {
  wait?: string | undefined;
  nonblock?: boolean | undefined;
  shared?: boolean | undefined;
  owner?: string | undefined;
  why?: string | undefined;
  takeover?: string | undefined;
  "takeover-deadline"?: string | undefined;
  park?: string | undefined;
}

/**
 * The options among these that take a value, in every spelling.
 *
 * @param tables Tables of options.
 */
export function valueOptionsOf(...tables: Record<string, Options>[]): Set<string> {
  return new Set(
    tables.flatMap((table) =>
      Object.entries(table)
        .filter(([, { requiresArg }]) => requiresArg)
        .flatMap(([name, { alias }]) => [`--${name}`, ...[alias ?? []].flat().map((a) => `-${a}`)])
    ),
  );
}

/**
 * The target that the connection options name.
 *
 * @param args What was written.
 * @throws {UsageError} The key cannot be read, or there is no way to log in.
 */
export function targetOf(args: ConnectArguments): Target {
  const { username = userInfo().username, host, port } = parseDestination(args.host);
  const sshAgent = args["ssh-agent"] ? process.env.SSH_AUTH_SOCK : undefined;
  if (args["ssh-agent"] && !sshAgent) {
    throw new UsageError(
      "Cannot use --ssh-agent: SSH_AUTH_SOCK is not set",
      "start one with: eval $(ssh-agent)",
    );
  }
  if (args.identity === undefined && sshAgent === undefined) {
    throw new UsageError(
      `Cannot log in to ${host}: no key was given`,
      "name a key file with -i, or use --ssh-agent; ~/.ssh is not read",
    );
  }
  return {
    host,
    username,
    port: args.port ?? port,
    privateKey: args.identity === undefined ? undefined : readKey(args.identity),
    sshAgent,
    hostFingerprint: args.fingerprint,
    acceptNewHostKeys: args["accept-new"],
    agentSocket: args["agent-socket"],
  };
}

/**
 * The options of `connect` that the arguments name.
 *
 * @param args What was written.
 */
export function connectOptionsOf(args: ConnectArguments & ClaimArguments): ConnectOptions {
  const timeout = args["connect-timeout"];
  return {
    owner: args.owner ?? `${userInfo().username}@${hostname()}`,
    transport: args.transport,
    ...(timeout === undefined
      ? {}
      : { connectTimeoutMs: parseDuration(timeout, "--connect-timeout") }),
  };
}

/**
 * The options of `claim` for taking over and for parking that the arguments name.
 *
 * @param args What was written.
 * @throws {UsageError} No duration, or a deadline for no takeover.
 */
export function takeoverOptionsOf(
  args: ClaimArguments,
): Pick<ClaimOptions, "takeover" | "parkMs"> {
  const { takeover: reason, "takeover-deadline": deadline, park } = args;
  if (reason === undefined && deadline !== undefined) {
    throw new UsageError(
      "Cannot use --takeover-deadline without --takeover",
      "--takeover REASON says why",
    );
  }
  const deadlineMs = deadline === undefined
    ? undefined
    : parseDuration(deadline, "--takeover-deadline");
  return {
    ...(reason === undefined ? {} : { takeover: { reason, deadlineMs } }),
    ...(park === undefined ? {} : { parkMs: parseDuration(park, "--park") }),
  };
}

/**
 * How long to wait for the lock, in milliseconds; `undefined`: as long as a takeover takes.
 *
 * @param args What was written.
 * @throws {UsageError} `-n` with `-w` or `--takeover`, or no duration.
 */
export function waitMsOf({ wait, nonblock, takeover }: ClaimArguments): number | undefined {
  if (nonblock && takeover !== undefined) {
    throw new UsageError("Cannot use -n with --takeover", "a takeover gives time to release it");
  }
  if (wait === undefined) return takeover === undefined ? 0 : undefined;
  if (nonblock) throw new UsageError("Cannot use -n with -w", "one says not to wait, the other to");
  return parseDuration(wait, "--wait");
}

function readKey(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? "no such file" : code === "EACCES" ? "permission denied" : code;
    throw new UsageError(`Cannot read key ${path}: ${why}`, "-i takes the file of a private key");
  }
}
