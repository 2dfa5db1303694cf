/**
 * What the controller tells of itself: one structured event for each thing it did, with its duration.
 *
 * No event ever carries a key, a password, standard input or output, or a value marked as secret.
 *
 * @module
 */

import { channel } from "node:diagnostics_channel";

import type { HolderFacts } from "../protocol/messages.ts";
import type { LossCause } from "./errors.ts";
import type { Way } from "./way.ts";

/** How much an event matters. */
export type LogLevel = "debug" | "info" | "warn" | "error";

/** What every event has. */
export interface EventBase {
  /** How much it matters. */
  level: LogLevel;
  /** A sentence for people. */
  message: string;
  /** The host. */
  host: string;
  /** The port. */
  port: number;
  /** The user on the host. */
  username: string;
}

/** A connection was opened, or could not be. */
export interface ConnectEvent extends EventBase {
  /** `connect` */
  event: "connect";
  /** How long it took, in milliseconds. */
  durationMs: number;
  /** What stood in the way; absent when it went well. */
  error?: string;
}

/** A connection ended. */
export interface DisconnectEvent extends EventBase {
  /** `disconnect` */
  event: "disconnect";
  /** How long it was open, in milliseconds. */
  durationMs: number;
  /** What ended it; absent when this side did. */
  error?: string;
}

/** A way to the locks was tried. */
export interface ChannelEvent extends EventBase {
  /** `channel` */
  event: "channel";
  /** The way. */
  way: Way;
  /** The agent's socket on the host, where the way goes straight to it. */
  socketPath?: string;
  /** How long it took, in milliseconds. */
  durationMs: number;
  /** What stood in the way; absent when it went well. */
  error?: string;
}

/** A command ended. */
export interface CommandEvent extends EventBase {
  /** `command` */
  event: "command";
  /** The command as it may be shown. */
  command: string;
  /** Its exit code; `null` when a signal ended it or its end is unknown. */
  exit_code: number | null;
  /** The signal that ended it. */
  signal: string | null;
  /** How long it took, in milliseconds. */
  durationMs: number;
  /** What stood in the way; absent when it ran to its end. */
  error?: string;
}

/** A claim was granted. */
export interface ClaimEvent extends EventBase {
  /** `claim` */
  event: "claim";
  /** The lock. */
  name: string;
  /** The way. */
  way: Way;
  /** The fencing token; absent where the way has none. */
  token?: number;
  /** The owners it was taken over from. */
  takenFrom?: string[];
  /** Present when it had stayed reserved for this owner. */
  unparked?: boolean;
  /** How long it took, in milliseconds. */
  durationMs: number;
}

/**
 * A claim was refused. The fields inside `contended_session_lock` keep the names that log pipelines
 * of the shell protocol know.
 */
export interface ContentionEvent extends EventBase {
  /** `contention` */
  event: "contention";
  /** How long it took, in milliseconds. */
  durationMs: number;
  /** The refusal. */
  contended_session_lock: {
    /** The lock. */
    name: string;
    /** 124, or 92 where the lock file could not be created. */
    exit_code: number;
    /** What happened, in a sentence. */
    session_fail_msg: string;
    /** Who has the lock. */
    holder?: HolderFacts;
    /** How many claims are queued for it. */
    queueLength?: number;
  };
}

/** Another asks for a lock that this session has. */
export interface TakeoverEvent extends EventBase {
  /** `takeover` */
  event: "takeover";
  /** The lock. */
  name: string;
  /** The owner who asks. */
  by: string;
  /** The user who asks. */
  byUid: number;
  /** Why. */
  reason: string;
  /** Time that is left to release it, in milliseconds. */
  deadlineMs: number;
  /** Whether the agent ends this session then. */
  forced: boolean;
}

/** A lock was released. */
export interface ReleaseEvent extends EventBase {
  /** `release` */
  event: "release";
  /** The lock. */
  name: string;
  /** How long it was held, in milliseconds. */
  heldMs: number;
}

/** A lock was lost. */
export interface LossEvent extends EventBase {
  /** `loss` */
  event: "loss";
  /** The lock. */
  name: string;
  /** The first cause. */
  reason: LossCause;
  /** The cause in a sentence. */
  detail: string;
}

/** Any event. */
export type LogEvent =
  | ChannelEvent
  | ClaimEvent
  | CommandEvent
  | ConnectEvent
  | ContentionEvent
  | DisconnectEvent
  | LossEvent
  | ReleaseEvent
  | TakeoverEvent;

/** An event without what all events of a session share. */
export type EventFacts = LogEvent extends infer E
  ? E extends LogEvent ? Omit<E, "host" | "port" | "username"> : never
  : never;

/** Where events go. */
export type Logger = (event: LogEvent) => void;

/** The name of the channel of `node:diagnostics_channel` on which each event is published. */
export const DIAGNOSTICS_CHANNEL = "sshlock";

const diagnostics = channel(DIAGNOSTICS_CHANNEL);

/** Tells events of one session to its logger and to `node:diagnostics_channel`. */
export class EventTeller {
  readonly #place: Pick<EventBase, "host" | "port" | "username">;
  readonly #log: Logger | undefined;

  /**
   * @param place The session's host, port and user.
   * @param log The caller's logger.
   */
  constructor(place: Pick<EventBase, "host" | "port" | "username">, log: Logger | undefined) {
    const { host, port, username } = place;
    this.#place = { host, port, username };
    this.#log = log;
  }

  /**
   * Tells one event. A logger that throws is ignored: it must not break what it watches.
   *
   * @param facts The event.
   */
  tell(facts: EventFacts): void {
    if (this.#log === undefined && !diagnostics.hasSubscribers) return;
    const event = { ...facts, ...this.#place } as LogEvent;
    if (diagnostics.hasSubscribers) diagnostics.publish(event);
    try {
      this.#log?.(event);
    } catch { /* not ours to report */ }
  }
}

/**
 * Milliseconds since `startMs`, to a microsecond.
 *
 * @param startMs A value of `performance.now()`.
 */
export function elapsedMs(startMs: number): number {
  return Math.round((performance.now() - startMs) * 1_000) / 1_000;
}
