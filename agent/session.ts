/**
 * A session: what locks are granted to. It outlives its connection for a while, and its processes
 * outlive it until they are cleared away; only then do its locks go to anyone else.
 *
 * @module
 */

import { createHash, randomBytes } from "node:crypto";
import { performance } from "node:perf_hooks";
import type {
  LossReason,
  LostParams,
  ProcessFacts,
  QueuedParams,
  TakeoverNotice,
} from "../protocol/messages.ts";
import { type CleanUpOptions, clearLeftovers, type LeavingClient } from "./clean_up.ts";
import type { AgentConfig } from "./config.ts";
import { crashPoint } from "./crash_points.ts";
import type { ExitWatch } from "./exit_watch.ts";
import type { LastLosses } from "./last_losses.ts";
import {
  type Leftover,
  type LeftoverSearch,
  type OnStarted,
  type OtherSession,
  SESSION_VARIABLE,
  type SessionMarks,
} from "./leftovers.ts";
import type { LockTable } from "./lock_table.ts";
import type { Log } from "./log.ts";
import type { Claimant, EndCause } from "./ownership.ts";
import type { Peer } from "./peer.ts";
import { isAlive } from "./proc.ts";
import type { SessionRecord } from "./records.ts";
import { findRoot, identifySshSession, type SessionKind } from "./session_root.ts";
import type { Listened, SilenceWatch } from "./silence.ts";

/** Pause before a clean-up that failed is tried again, in milliseconds. */
const CLEAR_AGAIN_MS = 500;

/** Processes that status names of those that a session's end waits for. */
const MAX_AWAITING_SHOWN = 20;

/**
 * Causes that only we can tell of. What we say goes through the session's sshd, and ending that first
 * would make a lost connection of it.
 */
const TOLD_BY_US: readonly LossReason[] = [
  "broken",
  "taken-over",
  "lock-file-replaced",
  "holder-failed",
];

/** Time that a session has to hear of its end, in milliseconds; one that is not heard from has none. */
const HEARING_MS = 500;

/** What a session tells its connection, if it has one. */
export interface Outlet {
  /** Sends a notification. */
  notify(method: string, params: object): void;
  /**
   * Ends the connection. Resolves when the peer has closed its side too: it has read all that was sent;
   * or when it has not done so for a while, unless this side is patient. To be called again when it is
   * so no longer.
   */
  close(options?: { isPatient?: boolean }): Promise<void>;
  /** Resolves when the peer has closed its side, by itself or with its end. */
  readonly left: Promise<void>;
  /** Whether the peer has sent something, or has ended, and that was not read yet. */
  hasUnread(): boolean;
}

/** What all sessions of an agent share. */
export interface SessionParts {
  /** The locks. */
  table: LockTable;
  /** Who has been silent for too long. */
  silence: SilenceWatch;
  /** Tells when the root of a detached session ends. */
  roots: ExitWatch;
  /** Finds the processes of sessions. */
  search: LeftoverSearch;
  /** Tells when the processes of an ending session end. */
  leftovers: ExitWatch;
  /** Where events go. */
  log: Log;
  /** What is configured. */
  config: AgentConfig;
  /** Sessions that have locks, by the hash of their secret. */
  sessions: Map<string, Session>;
  /** Why others have none any longer. */
  losses: LastLosses;
  /** Sessions that have or want a lock. */
  active: Set<Session>;
}

/** A session. */
export class Session implements Claimant, Listened {
  readonly id: string;
  readonly owner: string;
  readonly peer: Peer;
  readonly kind: SessionKind;
  clientAddress: string | undefined;
  lastHeardAt = performance.now();
  state: "held" | "detached" | "ending" = "held";
  awaiting: ProcessFacts[] = [];

  readonly #parts: SessionParts;
  readonly #secretHash: string;
  readonly #silenceMs: number;
  #marks: SessionMarks;
  #outlet: Outlet | undefined;
  /** Losses while it had no connection. */
  readonly #untold: LostParams[] = [];
  #isIdentified: boolean;
  /** Whether its lock was broken while it was ending. */
  #isBroken = false;
  /** On the monotonic clock, in milliseconds. */
  #endingSince = Infinity;
  /** Why it is being ended: by this agent, or by a predecessor that did not finish. */
  #ending: EndCause | undefined;
  #stopWatchingRoot: (() => void) | undefined;

  private constructor(
    parts: SessionParts,
    owner: string,
    record: SessionRecord,
    outlet: Outlet | undefined,
  ) {
    this.#parts = parts;
    this.id = record.id;
    this.owner = owner;
    this.peer = record.peer;
    this.kind = record.kind;
    this.#silenceMs = record.silenceMs;
    this.#secretHash = record.secretHash;
    this.#marks = record.marks;
    this.#outlet = outlet;
    this.#ending = record.ending;
    // What a local program started is known by ancestry while it lives, and by the session's id after.
    this.#isIdentified = record.kind === "process";
  }

  /**
   * A session for a connection that has just said hello.
   *
   * @param parts What all sessions share.
   * @param hello Who it is: its peer, owner, and what it asked for.
   * @param outlet Its connection.
   * @returns The session, and the secret that it can be resumed with.
   */
  static open(
    parts: SessionParts,
    hello: {
      peer: Peer;
      owner: string | undefined;
      asked: SessionKind;
      silenceMs: number;
    },
    outlet: Outlet,
  ): { session: Session; secret: string } {
    const { peer, asked } = hello;
    const random = randomBytes(6 + 24).toString("base64url");
    const [id, secret] = [random.slice(0, 8), random.slice(8)];
    // Sessions that do not say who they are must not join each other's locks.
    const owner = hello.owner ?? `uid:${peer.uid}/${id}`;
    const { kind, root } = findRoot(peer, asked);
    const isEndless = hello.silenceMs === 0 && kind === "ssh";
    const silenceMs = isEndless ? parts.config.silenceMs : hello.silenceMs;
    const session = new Session(parts, owner, {
      id,
      secretHash: hashOf(secret),
      peer,
      kind,
      marks: { root, uid: peer.uid },
      silenceMs,
    }, outlet);
    return { session, secret };
  }

  /**
   * A session of a predecessor of this agent, without a connection for now.
   *
   * @param parts What all sessions share.
   * @param owner The identity of its claims.
   * @param record What was recorded of it.
   */
  static adopt(parts: SessionParts, owner: string, record: SessionRecord): Session {
    const session = Session.adoptEnded(parts, owner, record);
    parts.sessions.set(record.secretHash, session);
    return session;
  }

  /**
   * A session of a predecessor that has ended, and whose lock is reserved for its owner.
   *
   * @param parts What all sessions share.
   * @param owner The identity of its claims.
   * @param record What was recorded of it.
   */
  static adoptEnded(parts: SessionParts, owner: string, record: SessionRecord): Session {
    const session = new Session(parts, owner, record, undefined);
    // The predecessor may have ended between a grant and the look at the session's marks.
    session.#isIdentified ||= record.marks.variable !== undefined;
    return session;
  }

  /** Its processes: from a look that begins after the call. */
  findProcesses(): Promise<Leftover[]> {
    return this.#parts.search.find(this.#marks, () => this.#otherLocalSessions());
  }

  /**
   * Tells of its processes as they are started, for some milliseconds.
   *
   * @param onStarted Called for each, once or more.
   */
  followProcesses(onStarted: OnStarted): Promise<void> {
    return this.#parts.search.follow(this.#marks, onStarted, () => this.#otherLocalSessions());
  }

  /**
   * Of sessions of one root that end, the one that ends last has what only the root tells apart: the
   * others wait for that, so none of them waits in vain.
   */
  *#otherLocalSessions(): Iterable<OtherSession> {
    if (this.kind !== "process") return;
    for (const other of this.#parts.active) {
      if (other === this || other.kind !== "process") continue;
      const hasLock = this.#parts.table.grantsOf(other).length > 0;
      const isSharing = hasLock && other.#endingSince > this.#endingSince;
      yield { marks: other.#marks, isSharing };
    }
  }

  /** How long it may be silent, in milliseconds; without a connection nobody may be for ever. */
  get silenceMs(): number {
    return this.state === "detached" ? this.resumeMs : this.#silenceMs;
  }

  /** How long it may be without a connection, in milliseconds. */
  get resumeMs(): number {
    return this.#silenceMs || this.#parts.config.silenceMs;
  }

  /** What is recorded of it. */
  get record(): SessionRecord {
    const { id, peer, kind } = this;
    const [secretHash, silenceMs] = [this.#secretHash, this.#silenceMs];
    const ending = this.#ending === undefined ? {} : { ending: this.#ending };
    return { id, secretHash, peer, kind, marks: this.#marks, silenceMs, ...ending };
  }

  /** What its processes are known by. */
  get marks(): SessionMarks {
    return this.#marks;
  }

  notifyQueued(params: QueuedParams): void {
    this.#outlet?.notify("queued", params);
  }

  /** It may not hear it: without a connection, or at the other end of one that is dead. */
  notifyLost(params: LostParams): void {
    this.#parts.losses.note(this.#secretHash, this.peer.uid, params);
    if (this.#outlet === undefined) this.#untold.push(params);
    else this.#outlet.notify("lost", params);
  }

  notifyTakeover(params: TakeoverNotice): void {
    this.#outlet?.notify("takeover", params);
  }

  /**
   * Finds out what its processes can be known by. Until it succeeds it is tried again at each
   * heartbeat.
   *
   * @param why `isAsked`: also where the session has and wants no lock, because its processes were asked for.
   */
  identify({ isAsked = false } = {}): void {
    if (this.#isIdentified || !(isAsked || this.#parts.table.concerns(this))) return;
    // Each of its locks has a record, and one that stays unknown is looked at again and again.
    if (this.#learnMarks()) this.#parts.table.recordOf(this);
  }

  /** Whether more is known by now. */
  #learnMarks(): boolean {
    const known = this.#marks;
    const { marks, clientAddress } = identifySshSession(this.peer, known.root);
    // What was read of a process that has ended is nothing, or that of whoever has its pid now.
    const { pid, startTime = 0 } = this.peer;
    const isRootRead = isAlive(known.root);
    if (!isRootRead && !isAlive({ pid, startTime })) return false;
    this.clientAddress ??= clientAddress;
    this.#isIdentified = marks.variable !== undefined;
    const before = JSON.stringify(known);
    this.#marks = { ...isRootRead ? marks : known, variable: marks.variable ?? known.variable };
    return JSON.stringify(this.#marks) !== before;
  }

  /** A session's silence means something only while it has or wants a lock. */
  onActive(): void {
    this.#parts.active.add(this);
    if (this.silenceMs > 0) this.#parts.silence.add(this);
  }

  /**
   * Called before a grant is recorded: from then on another connection may resume the session. What
   * it starts under the lock must be found whenever its root or this process is gone from now on.
   */
  onGranted(): void {
    this.#parts.sessions.set(this.#secretHash, this);
    if (this.kind === "process") {
      this.#marks = { ...this.#marks, variable: { name: SESSION_VARIABLE, value: this.id } };
    } else if (!this.#isIdentified) this.#learnMarks();
  }

  /** Called when it has and wants nothing any longer. */
  onIdle(): void {
    this.#parts.active.delete(this);
    this.#parts.sessions.delete(this.#secretHash);
    this.#parts.silence.delete(this);
    this.#stopWatchingRoot?.();
  }

  /**
   * Gives the session another connection.
   *
   * @param outlet The connection.
   */
  resume(outlet: Outlet): void {
    const previous = this.#outlet;
    this.#outlet = outlet;
    void previous?.close();
    this.state = "held";
    this.#stopWatchingRoot?.();
    this.lastHeardAt = performance.now();
    if (this.silenceMs === 0) this.#parts.silence.delete(this);
    this.#parts.log("session-resumed", this.#facts());
    this.#parts.table.announceSession("resumed", this);
    crashPoint("session.resumed");
    for (const loss of this.#untold.splice(0)) outlet.notify("lost", loss);
    this.#parts.table.repeatTakeovers(this);
  }

  /**
   * The connection is gone. A session of an SSH connection that lives has its silence limit to come
   * back: sshd closes channels for reasons of its own, and a bridge can be killed.
   *
   * @param outlet The connection; nothing happens when the session has another one by now.
   * @param detail What became of the connection.
   */
  detach(outlet: Outlet, detail: string): void {
    if (this.#outlet !== outlet) return;
    this.#outlet = undefined;
    if (this.state === "ending") return;
    this.#parts.table.cancelClaims(this, detail);
    if (!this.#parts.table.concerns(this)) return this.onIdle();
    if (this.kind === "process") return this.end({ reason: "session-ended", detail });
    this.awaitResume(detail);
  }

  /**
   * Called when all locks of a predecessor have been adopted, before anybody can connect. What that
   * one was ending is ended, so nobody resumes or joins it, and so is what ended meanwhile.
   *
   * @param detail Why it has no connection.
   */
  takeUp(detail: string): void {
    if (this.#ending !== undefined) return this.end(this.#ending);
    this.awaitResume(detail);
    if (!isAlive(this.#marks.root)) this.#endWithRoot();
  }

  /**
   * From now on it has its silence limit to come back with another connection, as long as its root
   * lives.
   *
   * @param detail What became of its connection.
   */
  awaitResume(detail: string): void {
    this.identify();
    this.state = "detached";
    this.#parts.log("session-detached", this.#facts({ detail }));
    this.#parts.table.announceSession("detached", this);
    this.#parts.silence.add(this);
    crashPoint("session.detached");
    this.#watchRoot();
  }

  /** Ends the session as soon as its root is gone, for as long as it has no connection. */
  #watchRoot(): void {
    this.#stopWatchingRoot?.();
    this.#stopWatchingRoot = this.#parts.roots.add(this.#marks.root, () => this.#endWithRoot());
  }

  #endWithRoot(): void {
    this.end({ reason: "session-ended", detail: "the SSH session has ended" });
  }

  /**
   * Ends it when its root is gone. A client that has left its SSH session keeps its connection, so
   * that does not tell.
   */
  checkRoot(): void {
    if (this.kind !== "ssh" || isAlive(this.#marks.root)) return;
    this.#endWithRoot();
  }

  hasUnread(): boolean {
    return this.#outlet?.hasUnread() ?? false;
  }

  endForSilence(): void {
    const detail = `the session was silent for ${this.silenceMs} ms`;
    this.end({ reason: "silence", detail });
  }

  /**
   * Ends the session: tells it, ends its sshd if that still lives, clears its processes away by the
   * policy of its locks, and only then frees them.
   *
   * @param cause Why; the first cause is the one that is told. Where it is ending already, and its
   * processes are waited for, a break ends them.
   */
  end(cause: EndCause): void {
    if (this.state === "ending") {
      this.#isBroken ||= cause.reason === "broken";
      return;
    }
    this.state = "ending";
    this.#endingSince = performance.now();
    this.#ending = cause;
    this.#stopWatchingRoot?.();
    void this.#end(cause);
  }

  async #end(cause: EndCause): Promise<void> {
    const { table, log } = this.#parts;
    this.identify();
    // Before anybody is told: an end that was begun is finished, by the next agent if need be.
    table.recordOf(this);
    log("session-ending", this.#facts({ ...cause }));
    crashPoint("end.begun");
    const { policies: [policy, ...others], graceMs } = table.beginEnd(this, cause);
    const isLeft = policy === "leave" || others.includes("leave");
    const hasRoot = this.kind === "ssh" && isAlive(this.#marks.root);
    if (isLeft && !hasRoot) table.finishEnd(this, cause, ["leave"]);
    crashPoint("end.told");
    const outlet = this.#outlet;
    const client = this.kind === "process" ? this.#leavingClient(outlet) : undefined;
    const hasHeard = outlet?.close({ isPatient: client !== undefined && policy !== "leave" });
    this.#parts.silence.delete(this);
    if (TOLD_BY_US.includes(cause.reason)) await withinMs(hasHeard, HEARING_MS);
    if (isLeft && hasRoot) {
      await this.#forSure(() => this.#endRoot(graceMs));
      table.finishEnd(this, cause, ["leave"]);
    }
    if (policy === "kill" || policy === "drain") {
      await this.#forSure(() => this.#clear(policy, graceMs, client));
    }
    void outlet?.close();
    crashPoint("end.cleared");
    table.finishEnd(this, cause);
    crashPoint("end.finished");
    this.onIdle();
    log("session-ended", this.#facts({ ...cause }));
  }

  /** A look that fails proves nothing about processes, so it is repeated until one succeeds. */
  async #forSure(clear: () => Promise<void>): Promise<void> {
    for (;;) {
      try {
        return await clear();
      } catch (error) {
        this.#parts.log("clean-up-failed", this.#facts({ message: (error as Error).message }));
        await new Promise((resolve) => setTimeout(resolve, CLEAR_AGAIN_MS));
      }
    }
  }

  /** Whoever wakes up at the other end of its sshd can do nothing more here; the rest is left alone. */
  #endRoot(graceMs: number): Promise<void> {
    return clearLeftovers({
      ...this.#clearParts(),
      graceMs,
      policy: () => "drain",
      find: () => Promise.resolve([]),
      follow: () => Promise.resolve(),
    });
  }

  #clear(
    policy: "kill" | "drain",
    graceMs: number,
    client: LeavingClient | undefined,
  ): Promise<void> {
    return clearLeftovers({
      ...this.#clearParts(),
      ...{ graceMs, client },
      policy: () => this.#isBroken ? "kill" : policy,
      find: () => this.findProcesses(),
      follow: (onStarted) => this.followProcesses(onStarted),
    });
  }

  /** A local program whose connection is gone has ended the session itself, or knows that it has ended. */
  #leavingClient(outlet: Outlet | undefined): LeavingClient | undefined {
    if (outlet === undefined) return undefined;
    const { root } = this.#marks;
    const isSharing = ({ marks, isSharing }: OtherSession) =>
      isSharing && marks.root.pid === root.pid && marks.root.startTime === root.startTime;
    const isShared = () => [...this.#otherLocalSessions()].some(isSharing);
    return { ...root, left: outlet.left, isShared };
  }

  #clearParts(): Pick<CleanUpOptions, "root" | "exits" | "onAwaiting"> {
    const { table, leftovers } = this.#parts;
    return {
      // The sshd of a session must be gone whatever the policy: it could start more processes.
      root: this.kind === "ssh" ? this.#marks.root : undefined,
      exits: leftovers,
      onAwaiting: (leftovers) => {
        const shown = leftovers.slice(0, MAX_AWAITING_SHOWN);
        this.awaiting = shown.map(({ pid, comm, state }) => ({ pid, comm, state }));
        if (leftovers.length > 0) table.announceSession("ending", this);
      },
    };
  }

  #facts(facts: Record<string, unknown> = {}): Record<string, unknown> {
    const { owner, peer, kind } = this;
    const root = this.#marks.root.pid;
    return { session: this.id, owner, peerPid: peer.pid, uid: peer.uid, kind, root, ...facts };
  }
}

/** Waits for a promise, but no longer than so long. */
async function withinMs(promise: Promise<void> | undefined, ms: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => timer = setTimeout(resolve, ms));
  await Promise.race([promise, late]);
  clearTimeout(timer);
}

/**
 * The hash that a session's secret is kept as.
 *
 * @param secret The secret.
 */
export function hashOf(secret: string): string {
  return createHash("sha256").update(secret).digest("hex");
}
