/**
 * One claim, from the caller's options to a lock, a refusal, or going on without one.
 *
 * @module
 */

import type {
  ClaimParams,
  ContendedFacts,
  HolderFacts,
  QueuedParams,
  TakeoverNotice,
} from "../protocol/messages.ts";
import { describeHolder, describeMs } from "../protocol/messages.ts";
import { WireError } from "../protocol/wire_error.ts";
import { AgentError, LockContendedError, type LockLostError } from "./errors.ts";
import { elapsedMs, type EventTeller } from "./events.ts";
import { Lock, Unlocked } from "./lock.ts";
import type { LockService } from "./lock_service.ts";
import type { Ways } from "./ways.ts";

/**
 * What happens when another owner has the lock: `throw` rejects, `observe` goes on without the lock and
 * tells it by one event, `warn` does the same with an event of level `warn`.
 */
export type OnContention = "throw" | "observe" | "warn";

/**
 * Another asks for a lock that this session has: `by` is the owner, `byUid` the user, `reason` why.
 * `deadlineMs` is what is left to release it, in milliseconds; `forced` says whether the agent ends
 * this session then.
 */
export type TakeoverRequest = TakeoverNotice;

/** Options of `claim`. */
export interface ClaimOptions {
  /**
   * How long to wait for the lock, in milliseconds; default 0: it is there at once or refused. With
   * `takeover` the default is as long as it takes where this user may force it, else the deadline.
   */
  waitMs?: number | undefined;
  /** What the lock is for, for whoever is refused meanwhile. */
  purpose?: string | undefined;
  /** Share the lock with other shared claims; default false. */
  shared?: boolean | undefined;
  /**
   * What becomes of this session's processes on the host when it ends while it has the lock: `kill`
   * (default) ends them, `drain` waits for them, `leave` does not look. Only then is the lock free.
   */
  onEnd?: "kill" | "drain" | "leave" | undefined;
  /** Time between TERM and KILL with `kill`, in milliseconds; default 5,000. */
  graceMs?: number | undefined;
  /**
   * Asks whoever has the lock to release it within `deadlineMs` (default 10,000). After that their
   * sessions are ended where this user may do so (root, the same user, the agent's admin group). It
   * needs an agent.
   */
  takeover?: { reason: string; deadlineMs?: number | undefined } | undefined;
  /**
   * How long the lock stays reserved for its owner after a dropped link, in milliseconds; default 0:
   * not at all. Whoever claims it again with the same `owner` has it back (`unparked`). It needs an agent.
   */
  parkMs?: number | undefined;
  /**
   * Called when another asks for the lock. It may be released there: `(request) => void lock.release()`.
   * It is never called before the promise of the claim has resolved.
   */
  onTakeover?: ((request: TakeoverRequest) => void) | undefined;
  /** What happens when another owner has the lock; default `throw`. */
  onContention?: OnContention | undefined;
  /** Gives the claim up; the promise rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Called when the claim has to wait, and each time its place changes. */
  onQueued?: ((queued: { position: number; holder?: HolderFacts | undefined }) => void) | undefined;
}

/** What a claim needs of its session. */
export interface ClaimParts {
  /** The host, for messages. */
  host: string;
  /** The way to the locks. */
  ways: Ways;
  /** Who is told. */
  events: EventTeller;
  /** Called with the lock once it is granted. */
  onGranted(lock: Lock): void;
  /** Called when it is lost. */
  onLost(lock: Lock, loss: LockLostError): void;
  /** Called when it is released. */
  onReleased(lock: Lock): void;
}

/**
 * Claims a lock.
 *
 * @param parts What it needs of its session.
 * @param name The lock.
 * @param options Options.
 * @throws {LockContendedError} Another owner has it, under `onContention: "throw"`.
 * @throws {AgentMissingError} No way to the locks of the host is there.
 * @throws {AgentError} The agent refused for another reason; `code` says which.
 */
export async function claimLock(
  parts: ClaimParts,
  name: string,
  options: ClaimOptions,
): Promise<Lock | Unlocked> {
  options.signal?.throwIfAborted();
  const startMs = performance.now();
  let service: LockService | undefined;
  try {
    const lock = await parts.ways.use((current) => {
      service = current;
      return claimFrom(current, parts, name, options);
    });
    tellGrant(parts, lock, startMs);
    parts.onGranted(lock);
    return lock;
  } catch (error) {
    options.signal?.throwIfAborted();
    const failure = asError(parts.host, error);
    tellFailure(parts, name, failure, options, startMs);
    const { onContention = "throw" } = options;
    if (onContention === "throw" || !(failure instanceof LockContendedError)) throw failure;
    const { way, reduced } = service as LockService;
    return new Unlocked({ name, way, reduced }, failure);
  }
}

async function claimFrom(
  service: LockService,
  parts: ClaimParts,
  name: string,
  options: ClaimOptions,
): Promise<Lock> {
  const { way, reduced } = service;
  const lock: Lock = new Lock({
    host: parts.host,
    name,
    way,
    reduced,
    checkSilence: () => service.checkSilence(),
    silenceLeftMs: () => service.silenceLeftMs,
    onEnd: (end) => {
      if ("loss" in end) tellLoss(parts, lock, end.loss);
      else tellRelease(parts, lock, end.heldMs);
    },
  });
  const grant = await service.claim(claimParams(name, options), {
    signal: options.signal,
    onQueued: ({ position, holder }: QueuedParams) => options.onQueued?.({ position, holder }),
    // It may have come with the grant, which the caller is to have first.
    onTakeover: (request) => void setImmediate(() => passTakeoverOn(parts, lock, request, options)),
    onLoss: (loss) => lock.lose(loss),
  });
  return lock.grant(grant);
}

function passTakeoverOn(
  parts: ClaimParts,
  lock: Lock,
  request: TakeoverRequest,
  { onTakeover }: ClaimOptions,
): void {
  if (!lock.held) return;
  tellTakeover(parts, request);
  onTakeover?.(request);
}

function claimParams(
  name: string,
  { waitMs, purpose, shared, onEnd, graceMs, parkMs, takeover }: ClaimOptions,
): ClaimParams {
  return {
    name,
    ...(waitMs === undefined ? {} : { waitMs }),
    ...(purpose === undefined ? {} : { purpose }),
    ...(shared === undefined ? {} : { shared }),
    ...(onEnd === undefined ? {} : { onEnd }),
    ...(graceMs === undefined ? {} : { graceMs }),
    ...(parkMs === undefined ? {} : { parkMs }),
    ...(takeover === undefined ? {} : { takeover: takeoverParams(takeover) }),
  };
}

function takeoverParams(
  { reason, deadlineMs }: NonNullable<ClaimOptions["takeover"]>,
): ClaimParams["takeover"] {
  return deadlineMs === undefined ? { reason } : { reason, deadlineMs };
}

/** The error of the wire as the caller is to see it. */
function asError(host: string, error: unknown): unknown {
  if (!(error instanceof WireError)) return error;
  if (error.code === "contended") {
    return new LockContendedError(host, error.facts as unknown as ContendedFacts, { cause: error });
  }
  return new AgentError(error.code, `${error.message} (on ${host})`, error.facts, { cause: error });
}

function tellGrant({ host, events }: ClaimParts, lock: Lock, startMs: number): void {
  const { name, way, token, takenFrom, unparked } = lock;
  events.tell({
    event: "claim",
    level: "info",
    message: `claimed "${name}" on ${host}`,
    name,
    way,
    ...(token === undefined ? {} : { token }),
    ...(takenFrom.length === 0 ? {} : { takenFrom: [...takenFrom] }),
    ...(unparked ? { unparked } : {}),
    durationMs: elapsedMs(startMs),
  });
}

function tellFailure(
  { events }: ClaimParts,
  name: string,
  failure: unknown,
  { onContention = "throw" }: ClaimOptions,
  startMs: number,
): void {
  const isContended = failure instanceof LockContendedError;
  if (!isContended && (failure as { code?: unknown }).code !== "lock-file") return;
  const refusal = isContended
    ? {
      exit_code: 124,
      session_fail_msg: `session lock conflict for ${name}: ${describeHolder(failure.holder)}`,
      queueLength: failure.queueLength,
      ...(failure.holder === undefined ? {} : { holder: failure.holder }),
    }
    : { exit_code: 92, session_fail_msg: `could not create session lock file for ${name}` };
  events.tell({
    event: "contention",
    level: onContention === "observe" ? "info" : "warn",
    message: "session lock failure",
    durationMs: elapsedMs(startMs),
    contended_session_lock: { name, ...refusal },
  });
}

function tellTakeover({ host, events }: ClaimParts, request: TakeoverRequest): void {
  const { name, by, byUid, reason, deadlineMs, forced } = request;
  const end = forced ? ", then this session is ended" : "";
  const message = `${by} (uid ${byUid}) asks for "${name}" on ${host} within ` +
    `${describeMs(deadlineMs)}${end}: ${reason}`;
  events.tell({
    event: "takeover",
    level: "warn",
    message,
    name,
    by,
    byUid,
    reason,
    deadlineMs,
    forced,
  });
}

function tellRelease(parts: ClaimParts, lock: Lock, heldMs: number): void {
  const { name } = lock;
  const message = `released "${name}" on ${parts.host}`;
  parts.events.tell({ event: "release", level: "info", message, name, heldMs });
  parts.onReleased(lock);
}

function tellLoss(parts: ClaimParts, lock: Lock, loss: LockLostError): void {
  const { message, lockName: name, reason, detail } = loss;
  parts.events.tell({ event: "loss", level: "error", message, name, reason, detail });
  parts.onLost(lock, loss);
}
