/**
 * sshlock: one controlling SSH session per host and lock name, proven by the host's own kernel.
 *
 * @example
 * ```ts
 * import { connect } from "sshlock";
 *
 * await using session = await connect({ host, username, privateKey, hostFingerprint });
 * await using lock = await session.claim("deploy", { waitMs: 30_000 });
 * const { stdout } = await session.exec("uptime", { signal: lock.signal });
 * ```
 *
 * @module
 */

export type { ClaimOptions, OnContention, TakeoverRequest } from "./claim.ts";
export {
  CommandError,
  type CommandFacts,
  CommandFailedError,
  CommandNotEndedError,
  CommandTimeoutError,
  OutputLimitError,
} from "./command_errors.ts";
export { connect, type ConnectOptions } from "./connect.ts";
export {
  AgentError,
  AgentMissingError,
  ConnectError,
  type ConnectFailure,
  HostKeyError,
  LockContendedError,
  LockLostError,
  type LossCause,
  ProtocolError,
} from "./errors.ts";
export {
  type ChannelEvent,
  type ClaimEvent,
  type CommandEvent,
  type ConnectEvent,
  type ContentionEvent,
  DIAGNOSTICS_CHANNEL,
  type DisconnectEvent,
  type EventBase,
  type LogEvent,
  type Logger,
  type LogLevel,
  type LossEvent,
  type ReleaseEvent,
  type TakeoverEvent,
} from "./events.ts";
export type { CommandInput, Encoding, ExecOptions, ExecResult, RunningCommand } from "./exec.ts";
export { forgetHostKeys, type HostKey, type HostKeyPolicy } from "./host_key.ts";
export type { Lock, Unlocked } from "./lock.ts";
export { Command, commandOf, type CommandValue, quote, Secret, secret, sh } from "./quote.ts";
export type { CommandLike, Session } from "./session.ts";
export { SessionCache } from "./session_cache.ts";
export { ChannelRefusedError, type RemoteExit, type RemoteProcess } from "./ssh_transport.ts";
export type { Target } from "./target.ts";
export type { WatchEvent, WatchState } from "./watch.ts";
export type { Way, WayAttempt } from "./way.ts";
export type {
  ChangeParams,
  ForeignHolder,
  HolderFacts,
  LockFacts,
  OwnHolder,
  ProcessFacts,
  ProcessSelection,
  StatusResult,
  WaiterFacts,
} from "../protocol/messages.ts";
