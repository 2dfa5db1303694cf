/**
 * What controller and agent say to each other: JSON-RPC 2.0 requests, their results, and the
 * notifications of the agent. `docs/protocol.md` is the same in words.
 *
 * The guards are written by hand because they are on the path of every claim.
 *
 * @module
 */

import { MAX_ID_LENGTH, MAX_OWNER_LENGTH, MAX_PURPOSE_LENGTH, MAX_WAIT_MS } from "./limits.ts";
import { isLockName, LOCK_NAME_RULE } from "./lock_name.ts";
import type { TakeoverOutcome } from "./takeover_outcome.ts";
import { WireError } from "./wire_error.ts";

/** The `id` of a request: what its response is matched by. */
export type RequestId = string | number | null;

/** A request, or a notification where `id` is absent. */
export interface Request {
  /** Absent in a notification, which is never answered. */
  id?: RequestId;
  /** The method's name. */
  method: string;
  /** The method's parameters; `{}` where the message had none. */
  params: Record<string, unknown>;
}

/** Parameters of `hello`, the first request of a connection. */
export interface HelloParams {
  /** The protocol version of the client. */
  protocol: number;
  /** Program and version of the client, for people. */
  client?: string;
  /** The identity that claims are made under; default `uid:UID/SESSION`, which no other session has. */
  owner?: string;
  /** The silence limit this session asks for, in milliseconds; 0 for none (sessions of kind `process` only). */
  silenceMs?: number;
  /**
   * What ends the session: `ssh` (default), the end of the SSH session that the peer belongs to, or of
   * the peer where it belongs to none; `process`, the end of the peer or of its connection.
   */
  session?: "ssh" | "process";
  /** The secret of a session whose connection was lost: this connection becomes that session's. */
  resume?: string;
}

/** Result of `hello`. */
export interface HelloResult {
  /** The protocol version of the agent. */
  protocol: number;
  /** Version of the agent. */
  agent: string;
  /** The host's name. */
  host: string;
  /** The host's boot id: another one means that nothing from before is left. */
  bootId: string;
  /** The agent's pid namespace, as `/proc/self/ns/pid` shows it. */
  pidNamespace: string;
  /** The owner that claims of this connection are made under. */
  owner: string;
  /** How often the client is to send something, in milliseconds. */
  heartbeatMs: number;
  /** The client gives its locks up this long after it sent the last ping that was answered, in milliseconds. */
  giveUpMs: number;
  /** The agent ends a session that was silent for so long, in milliseconds; 0 for never. */
  silenceMs: number;
  /** How long the session can be resumed after its connection or its agent has ended, in milliseconds. */
  resumeMs: number;
  /** The session: its id, the secret that another connection can resume it with, and what it is. */
  session: { id: string; secret: string; kind: "ssh" | "process"; resumed: boolean };
  /** The locks of a session that was resumed. */
  locks: ClaimResult[];
}

/** Parameters of `claim`. */
export interface ClaimParams {
  /** The lock to claim. */
  name: string;
  /** Share the lock with other shared claims; default false: exclusive. */
  shared?: boolean;
  /**
   * How long to wait for the lock, in milliseconds; default 0: answer at once. With `takeover` the
   * default is as long as it takes where the claimant may force it, else the takeover's deadline.
   */
  waitMs?: number;
  /** What the lock is for, for whoever is refused meanwhile. */
  purpose?: string;
  /**
   * What becomes of the session's processes when it ends while it has the lock: `kill` (default) ends
   * them, `drain` waits for them, `leave` does not look. The lock is free only after that.
   */
  onEnd?: "kill" | "drain" | "leave";
  /** Time between TERM and KILL with `kill`, in milliseconds; default 5000. */
  graceMs?: number;
  /**
   * How long the lock stays reserved for its owner after a dropped link, in milliseconds, counted
   * from when the session's processes are gone; default 0: not at all. A release, a break, a takeover
   * or a lost lock file reserves nothing.
   */
  parkMs?: number;
  /** Ask whoever has the lock to release it. */
  takeover?: TakeoverParams;
}

/** What a claim adds to take a lock over. */
export interface TakeoverParams {
  /** Why, for whoever has the lock and for the agent's log. */
  reason: string;
  /**
   * Time that whoever has the lock is given to release it, in milliseconds; default 10000. After it
   * the agent ends their sessions where the claimant may (root, the same user, the admin group);
   * else the claim waits on for as long as `waitMs` says.
   */
  deadlineMs?: number;
}

/** Result of `claim`: the lock is held, proven by the kernel. */
export interface ClaimResult {
  /** The lock. */
  name: string;
  /** Fencing token: higher than that of every earlier ownership of this lock. */
  token: number;
  /** The process that holds the flock(2), as the host's own tools name it. */
  holderPid: number;
  /** Whether the lock is shared. */
  shared: boolean;
  /** How long the claim waited, in milliseconds. */
  waitedMs: number;
  /** Present when another session of the same owner has the lock already: they share it. */
  joined?: true;
  /** Present when the lock was reserved for this owner after a dropped link: no other had it meanwhile. */
  unparked?: true;
  /** Present when the lock was taken over: the owners who were asked for it. */
  takenFrom?: string[];
}

/** Result of `release`. */
export interface ReleaseResult {
  /** The lock. */
  name: string;
  /** The token of the ownership that ended. */
  token: number;
  /** How long the lock was held, in milliseconds. */
  heldMs: number;
}

/** A holder that an agent started for one of its sessions. */
export interface OwnHolder {
  /** `own`: this agent's. */
  kind: "own";
  /** The identity that the claim was made under. */
  owner: string;
  /** What the lock is for. */
  purpose?: string;
  /** User id of the session. */
  uid: number;
  /** User name of the session, where the host knows one. */
  user?: string;
  /** Process at the other end of the agent's socket (sshd, the bridge, or a local program). */
  peerPid: number;
  /** Address of the SSH client, where it can be known. */
  clientAddress?: string;
  /** When the lock was granted, in milliseconds since 1970. */
  since: number;
  /** How long the lock has been held, in milliseconds. */
  heldMs: number;
  /** How long ago the session was last heard of, in milliseconds. */
  lastHeardMs: number;
  /** The process that holds the flock(2). */
  holderPid: number;
  /** The fencing token. */
  token: number;
  /** Whether the lock is shared. */
  shared: boolean;
  /**
   * `held`; `detached` while the session has no connection; `ending` while its processes are being
   * ended or waited for; `parked` once it has ended while the lock is reserved for its owner.
   */
  state: "held" | "detached" | "ending" | "parked";
  /** For how long the lock stays reserved, in milliseconds, while `parked`. */
  parkedForMs?: number;
  /** The processes that are being waited for while `ending`. */
  awaiting?: ProcessFacts[];
}

/** A process of a session. */
export interface ProcessFacts {
  /** The pid. */
  pid: number;
  /** Name of the executable, or what the process calls itself. */
  comm: string;
  /** One letter as in `/proc/PID/stat`; `D` cannot be ended, only waited for. */
  state: string;
}

/**
 * Which processes of a session are meant by `processes` and `signal`: all of them, or those that any of
 * these fields names. Processes of other sessions are never meant.
 */
export interface ProcessSelection {
  /** This process. */
  pid?: number;
  /** With `pid`: also its descendants, and what is in its process session (setsid(2)). */
  tree?: boolean;
  /** Those that have `SSHLOCK_COMMAND` with this value in their environment, and their descendants. */
  mark?: string;
}

/** A holder that is not this agent's: the shell protocol, flock(1), another agent. */
export interface ForeignHolder {
  /** `foreign`: not this agent's. */
  kind: "foreign";
  /** The process that has the lock file open with a lock on it, where it can be seen. */
  pid?: number;
  /** Its user id. */
  uid?: number;
  /** Its user name. */
  user?: string;
  /** Its command line. */
  command?: string;
  /** Whether the lock is shared. */
  shared?: boolean;
  /** What a record says of it, where one fits: a hint, no proof. */
  record?: { owner: string; purpose?: string; token: number; since: number };
  /** Why less than this is known. */
  hiddenBecause?: string;
}

/** Who has a lock. */
export type HolderFacts = OwnHolder | ForeignHolder;

/** A queued claim. */
export interface WaiterFacts {
  /** The identity that the claim was made under. */
  owner: string;
  /** What the lock is wanted for. */
  purpose?: string;
  /** User id of the session. */
  uid: number;
  /** How long it has waited, in milliseconds. */
  waitedMs: number;
  /** Whether a shared lock is wanted. */
  shared: boolean;
  /** Why the lock is to be taken over, where it is. */
  takeover?: string;
}

/** One lock as `status` and `watch` show it. */
export interface LockFacts {
  /** The lock. */
  name: string;
  /** Who has it; several only while it is shared. Empty: free. */
  holders: HolderFacts[];
  /** Claims queued at this agent, the next first. */
  waiters: WaiterFacts[];
  /** How many holders there are beyond those listed, where not all fit a line. */
  holdersOmitted?: number;
  /** How many waiters there are beyond those listed, where not all fit a line. */
  waitersOmitted?: number;
}

/** Parameters of `status` and `watch`. */
export interface StatusParams {
  /** Only this lock. */
  name?: string;
  /** Only locks whose name sorts after this one, by UTF-16 code units: the next page of a long answer. */
  after?: string;
}

/** Result of `status`. */
export interface StatusResult {
  /** The locks that are held or waited for, by name; with a name asked for, that one alone, free or not. */
  locks: LockFacts[];
  /** There are more than fit a line: ask again with `after` set to the last name here. */
  more?: true;
  /** What the kernel could not tell, and why. */
  notes?: string[];
}

/** Facts of the error `contended`. */
export interface ContendedFacts {
  /** The lock. */
  name: string;
  /** Who has it; absent when it was let go between the refusal and the look. */
  holder?: HolderFacts;
  /** How many holders share it. */
  holderCount: number;
  /** How many claims are queued for it at this agent. */
  queueLength: number;
  /** How long the claim waited, in milliseconds; 0 where it was not to wait. */
  waitedMs: number;
  /** What stood in the way, where the lock was to be taken over. */
  takeover?: TakeoverOutcome | undefined;
}

/** Why a lock was lost. The first cause wins. */
export type LossReason =
  | "lock-file-replaced"
  | "silence"
  | "session-ended"
  | "holder-failed"
  | "broken"
  | "taken-over";

const LOSS_REASONS: readonly LossReason[] = [
  "lock-file-replaced",
  "silence",
  "session-ended",
  "holder-failed",
  "broken",
  "taken-over",
];

/**
 * The loss that an agent tells of with a refusal to resume a session; `undefined` where it does not.
 *
 * @param facts The facts of the error.
 */
export function lossIn(
  facts: Record<string, unknown>,
): { reason: LossReason; detail: string } | undefined {
  const { reason, detail } = facts;
  const known = LOSS_REASONS.find((known) => known === reason);
  return known === undefined ? undefined : { reason: known, detail: String(detail) };
}

/** Notification `lost`: the session no longer has the lock, against its will. */
export interface LostParams {
  /** The lock. */
  name: string;
  /** The token of the ownership that ended. */
  token: number;
  /** The first cause. */
  reason: LossReason;
  /** The cause in a sentence. */
  detail: string;
}

/** Notification `queued`: the claim waits. */
export interface QueuedParams {
  /** The lock. */
  name: string;
  /** Place in the queue; 1 is next. */
  position: number;
  /** Who has the lock, as far as it is known. */
  holder?: HolderFacts;
}

/** Notification `takeover`: another asks for a lock that the session has. */
export interface TakeoverNotice {
  /** The lock. */
  name: string;
  /** The owner who asks. */
  by: string;
  /** The user who asks. */
  byUid: number;
  /** Why. */
  reason: string;
  /** Time that is left to release the lock, in milliseconds. */
  deadlineMs: number;
  /** Whether the agent ends the session then. */
  forced: boolean;
}

/** Notification `change` of a `watch`. */
export interface ChangeParams {
  /** What happened. */
  event: ChangeEvent;
  /** Who it happened to; absent for a foreign holder, which has no owner. */
  owner?: string | undefined;
  /** The lock as it is now. */
  lock: LockFacts;
}

/** What can happen to a lock or a claim. */
export type ChangeEvent =
  | "granted"
  | "released"
  | "lost"
  | "queued"
  | "left"
  | "detached"
  | "resumed"
  | "ending"
  | "takeover"
  | "parked"
  | "park-over"
  | "foreign-held"
  | "foreign-gone";

const END_POLICIES = ["kill", "drain", "leave"];

/**
 * The request in a parsed line.
 *
 * @param message A parsed line.
 * @throws {WireError} `invalid-request`: it is no JSON-RPC 2.0 request.
 */
export function readRequest(message: unknown): Request {
  if (!isObject(message) || message.jsonrpc !== "2.0" || typeof message.method !== "string") {
    throw new WireError("invalid-request", "Cannot read message: it is no JSON-RPC 2.0 request");
  }
  const { id, method, params = {} } = message;
  if (id !== undefined && !isRequestId(id)) {
    throw new WireError(
      "invalid-request",
      `Cannot read message: id is no finite number and no text of up to ${MAX_ID_LENGTH} characters`,
    );
  }
  if (!isObject(params)) throw badParams(shorten(method), "params", "an object");
  return { id, method, params };
}

/**
 * The `id` to answer a message under that may be no request: its own, else `null`.
 *
 * @param message A parsed line.
 */
export function readId(message: unknown): RequestId {
  const id = isObject(message) ? message.id : null;
  return isRequestId(id) ? id : null;
}

/**
 * The parameters of `hello`.
 *
 * @param params What the request had.
 * @throws {WireError} `bad-params` names the field that is wrong.
 */
export function readHello(params: Record<string, unknown>): HelloParams {
  const { protocol, client, owner, silenceMs, session, resume } = params;
  if (!Number.isInteger(protocol)) throw badParams("hello", "protocol", "an integer");
  if (!isTextOrAbsent(client, MAX_OWNER_LENGTH)) throw badText("hello", "client", MAX_OWNER_LENGTH);
  if (!isTextOrAbsent(owner, MAX_OWNER_LENGTH)) throw badText("hello", "owner", MAX_OWNER_LENGTH);
  if (silenceMs !== undefined && !isDuration(silenceMs)) {
    throw badParams("hello", "silenceMs", "a number of milliseconds");
  }
  if (session !== undefined && session !== "ssh" && session !== "process") {
    throw badParams("hello", "session", '"ssh" or "process"');
  }
  if (!isTextOrAbsent(resume, MAX_OWNER_LENGTH)) throw badText("hello", "resume", MAX_OWNER_LENGTH);
  return params as unknown as HelloParams;
}

/**
 * The parameters of `claim`.
 *
 * @param params What the request had.
 * @throws {WireError} `bad-name` or `bad-params` names the field that is wrong.
 */
export function readClaim(params: Record<string, unknown>): ClaimParams {
  const { shared, waitMs, purpose, onEnd, graceMs, parkMs, takeover } = params;
  readName("claim", params);
  if (shared !== undefined && typeof shared !== "boolean") {
    throw badParams("claim", "shared", "true or false");
  }
  if (waitMs !== undefined && !isDuration(waitMs)) {
    throw badParams("claim", "waitMs", `a number of milliseconds up to ${MAX_WAIT_MS}`);
  }
  if (!isTextOrAbsent(purpose, MAX_PURPOSE_LENGTH)) {
    throw badText("claim", "purpose", MAX_PURPOSE_LENGTH);
  }
  if (onEnd !== undefined && !END_POLICIES.includes(onEnd as string)) {
    throw badParams("claim", "onEnd", '"kill", "drain" or "leave"');
  }
  if (graceMs !== undefined && !isDuration(graceMs)) {
    throw badParams("claim", "graceMs", "a number of milliseconds");
  }
  if (parkMs !== undefined && !isDuration(parkMs)) {
    throw badParams("claim", "parkMs", "a number of milliseconds");
  }
  if (takeover !== undefined) checkTakeover(takeover);
  return params as unknown as ClaimParams;
}

function checkTakeover(takeover: unknown): void {
  if (!isObject(takeover)) throw badParams("claim", "takeover", "an object with a reason");
  const { reason, deadlineMs } = takeover;
  if (reason === undefined || !isTextOrAbsent(reason, MAX_PURPOSE_LENGTH)) {
    throw badText("claim", "takeover.reason", MAX_PURPOSE_LENGTH);
  }
  if (deadlineMs !== undefined && !isDuration(deadlineMs)) {
    throw badParams("claim", "takeover.deadlineMs", "a number of milliseconds");
  }
}

/**
 * The lock name in the parameters of a method.
 *
 * @param method The method, for the error.
 * @param params What the request had.
 * @throws {WireError} `bad-name`: absent, or no lock name.
 */
export function readName(method: string, params: Record<string, unknown>): string {
  const { name } = params;
  if (isLockName(name)) return name;
  const shown = typeof name === "string" ? JSON.stringify(shorten(name)) : `(${typeof name})`;
  throw new WireError(
    "bad-name",
    `Cannot ${method} ${shown}: a lock name is ${LOCK_NAME_RULE}`,
  );
}

/**
 * The parameters of `signal`.
 *
 * @param params What the request had.
 * @throws {WireError} `bad-params` names the field that is wrong.
 */
export function readSignal(
  params: Record<string, unknown>,
): { signal: NodeJS.Signals; selection: ProcessSelection } {
  const { signal } = params;
  if (typeof signal !== "string" || !SIGNALS.includes(signal)) {
    throw badParams("signal", "signal", `one of ${SIGNALS.join(" ")}`);
  }
  return { signal: signal as NodeJS.Signals, selection: readSelection("signal", params) };
}

/**
 * Which processes the parameters of `processes` or `signal` mean.
 *
 * @param method The method, for the error.
 * @param params What the request had.
 * @throws {WireError} `bad-params` names the field that is wrong.
 */
export function readSelection(method: string, params: Record<string, unknown>): ProcessSelection {
  const { pid, tree, mark } = params;
  if (pid !== undefined && !Number.isSafeInteger(pid)) throw badParams(method, "pid", "a pid");
  if (tree !== undefined && typeof tree !== "boolean") {
    throw badParams(method, "tree", "true or false");
  }
  if (!isTextOrAbsent(mark, MAX_OWNER_LENGTH)) throw badText(method, "mark", MAX_OWNER_LENGTH);
  return {
    ...(pid === undefined ? {} : { pid: pid as number }),
    ...(tree === undefined ? {} : { tree }),
    ...(mark === undefined ? {} : { mark: mark as string }),
  };
}

const SIGNALS = [
  "SIGHUP",
  "SIGINT",
  "SIGQUIT",
  "SIGKILL",
  "SIGUSR1",
  "SIGUSR2",
  "SIGTERM",
  "SIGCONT",
  "SIGSTOP",
  "SIGWINCH",
];

/**
 * The parameters of `break`.
 *
 * @param params What the request had.
 * @throws {WireError} `bad-name` or `bad-params` names the field that is wrong.
 */
export function readBreak(params: Record<string, unknown>): { name: string; reason: string } {
  const name = readName("break", params);
  const { reason } = params;
  if (reason === undefined || !isTextOrAbsent(reason, MAX_PURPOSE_LENGTH)) {
    throw badText("break", "reason", MAX_PURPOSE_LENGTH);
  }
  return { name, reason: reason as string };
}

/**
 * The lock name in the parameters of a method that can do without one.
 *
 * @param method The method, for the error.
 * @param params What the request had.
 * @throws {WireError} `bad-name`: present, but no lock name.
 */
export function readOptionalName(
  method: string,
  params: Record<string, unknown>,
): string | undefined {
  return params.name === undefined ? undefined : readName(method, params);
}

/**
 * The parameters of `status` and `watch`.
 *
 * @param method The verb, for the error.
 * @param params What the request had.
 * @throws {WireError} `bad-name`: `name` or `after` is present, but no lock name.
 */
export function readStatus(method: string, params: Record<string, unknown>): StatusParams {
  const after = readOptionalName(method, { name: params.after });
  return { name: readOptionalName(method, params), after };
}

/**
 * A holder in the words that every message of sshlock uses for it.
 *
 * @param holder Who has the lock; absent when it was let go meanwhile.
 */
export function describeHolder(holder: HolderFacts | undefined): string {
  if (holder === undefined) return "held by a session that has just let go";
  if (holder.kind === "own") {
    const where = holder.clientAddress === undefined ? "" : `, ${holder.clientAddress}`;
    const why = holder.purpose === undefined ? "" : ` for "${holder.purpose}"`;
    const user = holder.user === undefined
      ? `uid ${holder.uid}`
      : `${holder.user}, uid ${holder.uid}`;
    return `held by ${holder.owner} (${user}${where})${why} for ${describeMs(holder.heldMs)}${
      describeState(holder)
    }`;
  }
  if (holder.record !== undefined) {
    return `held by ${holder.record.owner} (foreign holder, pid ${holder.pid ?? "unknown"})`;
  }
  if (holder.pid === undefined) {
    return `held by a foreign holder (${holder.hiddenBecause ?? "its process cannot be seen"})`;
  }
  const command = holder.command === undefined ? "" : `, ${holder.command}`;
  return `held by a foreign holder (pid ${holder.pid}, uid ${holder.uid ?? "unknown"}${command})`;
}

function describeState({ state, awaiting, parkedForMs }: OwnHolder): string {
  if (state === "ending") return `, whose session is ending (${describeAwaited(awaiting ?? [])})`;
  if (state !== "parked") return "";
  return `, whose session has ended; it stays reserved for ${describeMs(parkedForMs ?? 0)}`;
}

/**
 * What an ending session waits for, in words.
 *
 * @param awaiting The processes, as `status` tells them.
 */
export function describeAwaited(awaiting: ProcessFacts[]): string {
  if (awaiting.length === 0) return "looking for its processes";
  const shown = awaiting.slice(0, 3).map(({ pid, comm }) => `${comm} ${pid}`).join(", ");
  const more = awaiting.length > 3 ? ` and ${awaiting.length - 3} more` : "";
  return `waits for ${shown}${more}`;
}

/**
 * A duration for people: `14 s`, `3 min`, `2 h`.
 *
 * @param ms Milliseconds.
 */
export function describeMs(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${Math.round(ms / 1_000)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  return `${Math.round(ms / 3_600_000)} h`;
}

/**
 * Text of a stranger's, short enough to be part of an error.
 *
 * @param text The text.
 */
export function shorten(text: string): string {
  return text.length <= 60 ? text : `${text.slice(0, 60)}…`;
}

function isRequestId(value: unknown): value is RequestId {
  if (typeof value === "string") return value.length <= MAX_ID_LENGTH;
  return value === null || Number.isFinite(value);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isDuration(value: unknown): value is number {
  return typeof value === "number" && value >= 0 && value <= MAX_WAIT_MS;
}

// Control characters are refused, so that what one client says of itself cannot write to another's terminal.
// deno-lint-ignore no-control-regex
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;

function isTextOrAbsent(value: unknown, maxLength: number): boolean {
  if (value === undefined) return true;
  return typeof value === "string" && value.length > 0 && value.length <= maxLength &&
    !CONTROL.test(value);
}

function badText(method: string, field: string, maxLength: number): WireError {
  return badParams(
    method,
    field,
    `text of 1 to ${maxLength} characters without control characters`,
  );
}

function badParams(method: string, field: string, expected: string): WireError {
  return new WireError("bad-params", `Cannot ${method}: ${field} is not ${expected}`, { field });
}
