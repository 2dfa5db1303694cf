/**
 * Opens sessions.
 *
 * @module
 */

import { elapsedMs, EventTeller, type Logger } from "./events.ts";
import { Session } from "./session.ts";
import { DEFAULT_LOCK_DIR } from "./shell_script.ts";
import { KEEPALIVE_MS, SshTransport } from "./ssh_transport.ts";
import { checkTarget, describeTarget, type Target } from "./target.ts";
import { type Way, WAYS } from "./way.ts";
import { Ways } from "./ways.ts";

/** Time to connect and authenticate, in milliseconds, unless told otherwise. */
const CONNECT_TIMEOUT_MS = 10_000;

/** Options of {@linkcode connect}. */
export interface ConnectOptions {
  /** The identity that claims are made under, such as `respirate/42`; default: `uid:UID` of the user on the host. */
  owner?: string | undefined;
  /** Takes events; see `LogEvent`. */
  log?: Logger | undefined;
  /** The only way to the locks that may be used; default: `streamlocal`, `bridge`, `shell`, in this order. */
  transport?: Way | undefined;
  /** Time to connect and authenticate, in milliseconds; default 10,000. */
  connectTimeoutMs?: number | undefined;
  /** Time between two keepalives, in milliseconds; default 3,000. Five unanswered ones end the connection. */
  keepaliveMs?: number | undefined;
  /** The silence limit to ask the agent for, in milliseconds; default: the agent's, 15,000. */
  silenceMs?: number | undefined;
  /** The folder of the lock files on the host, for the way `shell`; default `/dev/shm`. */
  lockDir?: string | undefined;
  /** Gives up connecting. */
  signal?: AbortSignal | undefined;
}

/**
 * Opens an SSH session to a host.
 *
 * Only what is given is used: no ssh configuration, no key files, no environment variables. No host
 * key is accepted unless `hostVerifier`, `hostFingerprint` or `acceptNewHostKeys` vouches for it.
 * The agent of the host is contacted at the first claim, in the same write.
 *
 * @param target The host and how to log in there.
 * @param options Options.
 * @throws {HostKeyError} Nobody vouches for the host key. Nothing was sent that authenticates.
 * @throws {ConnectError} Anything else that stands in the way; `kind` says what.
 * @throws {TypeError} The target is malformed.
 * @example
 * ```ts
 * await using session = await connect({ host: "db1", username: "root", privateKey, hostFingerprint });
 * await using lock = await session.claim("deploy");
 * await session.exec`systemctl restart ${unit}`;
 * ```
 */
export async function connect(target: Target, options: ConnectOptions = {}): Promise<Session> {
  checkTarget(target);
  if (options.transport !== undefined && !WAYS.includes(options.transport)) {
    throw new TypeError(`Cannot connect: transport is none of ${WAYS.join(", ")}`);
  }
  const { host, port = 22, username } = target;
  const events = new EventTeller({ host, port, username }, options.log);
  const transport = await openTransport(target, options, events);
  const ways = new Ways(transport, {
    host,
    events,
    owner: options.owner,
    silenceMs: options.silenceMs,
    way: options.transport,
    socketPath: target.agentSocket,
    lockDir: options.lockDir ?? DEFAULT_LOCK_DIR,
  });
  return new Session({ host, transport, ways, events });
}

async function openTransport(
  target: Target,
  options: ConnectOptions,
  events: EventTeller,
): Promise<SshTransport> {
  const startMs = performance.now();
  const name = describeTarget(target);
  try {
    const transport = await SshTransport.open(target, {
      connectTimeoutMs: options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS,
      keepaliveMs: options.keepaliveMs ?? KEEPALIVE_MS,
      signal: options.signal,
    });
    const durationMs = elapsedMs(startMs);
    events.tell({ event: "connect", level: "info", message: `connected to ${name}`, durationMs });
    return transport;
  } catch (error) {
    const { message } = error as Error;
    const durationMs = elapsedMs(startMs);
    events.tell({ event: "connect", level: "warn", message, durationMs, error: message });
    throw error;
  }
}
