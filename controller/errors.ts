/**
 * The errors of the controller: one class for each condition that a caller would catch, with its facts as fields.
 *
 * @module
 */

import { type ContendedFacts, describeHolder, describeMs } from "../protocol/messages.ts";
import type { HolderFacts, LossReason } from "../protocol/messages.ts";
import type { TakeoverOutcome } from "../protocol/takeover_outcome.ts";
import type { WayAttempt } from "./way.ts";

/** What stood in the way of a connection. */
export type ConnectFailure =
  | "authentication"
  | "closed"
  | "host-key"
  | "name-not-found"
  | "no-route"
  | "protocol"
  | "refused"
  | "timeout";

/** The SSH connection could not be opened, or is no longer there. */
export class ConnectError extends Error {
  override name = "ConnectError";
  /** What stood in the way. */
  readonly kind: ConnectFailure;
  /** `user@host:port`. */
  readonly target: string;

  /**
   * @param kind What stood in the way.
   * @param target `user@host:port`.
   * @param message Action, target, state.
   * @param options The cause.
   */
  constructor(kind: ConnectFailure, target: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
    this.target = target;
  }
}

/** The host showed a key that nothing vouches for, or another one than expected. Nothing was sent to it. */
export class HostKeyError extends ConnectError {
  override name = "HostKeyError";
  /** What is wrong: nobody was asked to vouch for it, it is another one, or the verifier refused it. */
  readonly problem: "not-vouched-for" | "changed" | "refused";
  /** `SHA256:…` of the key that the host showed. */
  readonly fingerprint: string;
  /** Its type, such as `ssh-ed25519`. */
  readonly keyType: string;

  /**
   * @param problem What is wrong.
   * @param target `user@host:port`.
   * @param key The key that the host showed.
   * @param detail The state, for the message.
   */
  constructor(
    problem: HostKeyError["problem"],
    target: string,
    key: { fingerprint: string; type: string },
    detail: string,
  ) {
    super("host-key", target, `Cannot connect to ${target}: ${detail}`);
    this.problem = problem;
    this.fingerprint = key.fingerprint;
    this.keyType = key.type;
  }
}

/** None of the ways to an agent was there. */
export class AgentMissingError extends Error {
  override name = "AgentMissingError";
  /** What was tried, in order, and what stood in the way. */
  readonly attempts: readonly WayAttempt[];

  /**
   * @param host The host.
   * @param attempts What was tried.
   */
  constructor(host: string, attempts: readonly WayAttempt[]) {
    const tried = attempts.map(({ way, problem }) => `${way}: ${problem}`).join("; ");
    super(`Cannot reach an agent on ${host}: ${tried}`);
    this.attempts = attempts;
  }
}

/** The agent was there and refused, or stopped answering. */
export class AgentError extends Error {
  override name = "AgentError";
  /** The stable code of the wire, or `link-closed`, `silence` of this side. */
  readonly code: string;
  /** The facts of this case. */
  readonly facts: Record<string, unknown>;

  /**
   * @param code The stable code.
   * @param message Action, target, state.
   * @param facts The facts of this case.
   * @param options The cause.
   */
  constructor(
    code: string,
    message: string,
    facts: Record<string, unknown> = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.code = code;
    this.facts = facts;
  }
}

/** What came over the link is not the protocol of sshlock. */
export class ProtocolError extends AgentError {
  override name = "ProtocolError";
}

/** Another owner has the lock. */
export class LockContendedError extends Error {
  override name = "LockContendedError";
  /** The host. */
  readonly host: string;
  /** The lock. */
  readonly lockName: string;
  /** Who has it; absent when it was let go meanwhile, or when the way cannot tell. */
  readonly holder: HolderFacts | undefined;
  /** How many holders share it. */
  readonly holderCount: number;
  /** How many claims are queued for it. */
  readonly queueLength: number;
  /** How long the claim waited, in milliseconds. */
  readonly waitedMs: number;
  /** What stood in the way, where the lock was to be taken over and the agent told. */
  readonly takeover: TakeoverOutcome | undefined;

  /**
   * @param host The host.
   * @param facts What the agent told.
   * @param options The cause.
   */
  constructor(host: string, facts: ContendedFacts, options?: ErrorOptions) {
    const waited = facts.waitedMs > 0 ? ` after ${describeMs(facts.waitedMs)}` : "";
    super(
      `Cannot claim "${facts.name}" on ${host}${waited}: ${describeHolder(facts.holder)}`,
      options,
    );
    this.host = host;
    this.lockName = facts.name;
    this.holder = facts.holder;
    this.holderCount = facts.holderCount;
    this.queueLength = facts.queueLength;
    this.waitedMs = facts.waitedMs;
    this.takeover = facts.takeover;
  }
}

/** Why a lock was lost: what the agent told, or what this side saw. */
export type LossCause = LossReason | "channel-closed" | "connection-closed";

/** The lock is lost: what follows is no longer protected by it. */
export class LockLostError extends Error {
  override name = "LockLostError";
  /** The host. */
  readonly host: string;
  /** The lock. */
  readonly lockName: string;
  /** The first cause. */
  readonly reason: LossCause;
  /** The cause in a sentence. */
  readonly detail: string;
  /** The token of the ownership that ended. */
  readonly token: number | undefined;

  /**
   * @param host The host.
   * @param lockName The lock.
   * @param loss The first cause.
   */
  constructor(
    host: string,
    lockName: string,
    loss: { reason: LossCause; detail: string; token?: number | undefined },
  ) {
    super(`Lost "${lockName}" on ${host}: ${loss.detail}`);
    this.host = host;
    this.lockName = lockName;
    this.reason = loss.reason;
    this.detail = loss.detail;
    this.token = loss.token;
  }
}
