/**
 * One connection to the agent: reads its requests and answers them for the session it belongs to.
 *
 * @module
 */

import type { Buffer } from "node:buffer";
import type { Socket } from "node:net";
import { hostname } from "node:os";
import { performance } from "node:perf_hooks";
import { encodeMessage, MessageDecoder } from "../protocol/framing.ts";
import { MAX_SILENCE_MS, MIN_SILENCE_MS, PROTOCOL_VERSION } from "../protocol/limits.ts";
import {
  type ChangeParams,
  type HelloParams,
  type HelloResult,
  type ProcessFacts,
  type ProcessSelection,
  readBreak,
  readClaim,
  readHello,
  readId,
  readName,
  readRequest,
  readSelection,
  readSignal,
  readStatus,
  type Request,
  type RequestId,
  shorten,
  type StatusParams,
  type StatusResult,
} from "../protocol/messages.ts";
import { VERSION } from "../protocol/version.ts";
import { WireError } from "../protocol/wire_error.ts";
import { timesFor } from "./config.ts";
import type { ForeignWatch } from "./foreign_watch.ts";
import { descriptorOf } from "./holder.ts";
import type { StatusPage } from "./host_status.ts";
import type { Leftover } from "./leftovers.ts";
import { isReadable } from "./libc.ts";
import type { Peer } from "./peer.ts";
import { selectProcesses } from "./process_selection.ts";
import { isAlive, readBootId, readPidNamespace } from "./proc.ts";
import { hashOf, type Outlet, Session, type SessionParts } from "./session.ts";
import type { Rights } from "./rights.ts";
import { findRoot } from "./session_root.ts";
import { sendSignals, sendSignalsBy } from "./signals.ts";
import { userName } from "./users.ts";
import { fitLock, MAX_LOCKS_A_PAGE, pageOf } from "./status_page.ts";

/** Answers that a peer may leave unread, in bytes, before it is cut off. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024;

/** Time that a peer has to read its last answers, in milliseconds. */
const LAST_WORDS_MS = 2_000;

/** Processes in one answer: more would not fit a line. */
const MAX_PROCESSES_SHOWN = 500;

/** Looks at all locks that one session may have under way: each reads a good part of /proc. */
const MAX_OPEN_LOOKS = 8;

/** What all connections of an agent share. */
export interface ConnectionParts extends SessionParts {
  /** Everything that holds a lock on this host, for `status`. */
  status(page: StatusPage): Promise<StatusResult>;
  /** Tells of foreign holders that come and go. */
  foreign: ForeignWatch;
  /** Who may end whose sessions. */
  rights: Rights;
  /** Whether the agent is ending. */
  isStopping(): boolean;
}

/** One connection to the agent. */
export class Connection implements Outlet {
  readonly left: Promise<void>;
  readonly #peer: Peer;
  readonly #socket: Socket;
  readonly #parts: ConnectionParts;
  readonly #decoder = new MessageDecoder();
  #session: Session | undefined;
  #isOver = false;
  /** Whether this side has given up on a peer that has not closed its own. */
  #isCutOff = false;
  #heldBack = "";
  #openRequests = 0;
  #openLooks = 0;
  #stopWatching: (() => void) | undefined;
  #impatience: ReturnType<typeof setTimeout> | undefined;

  /**
   * @param socket The accepted connection, with nothing read from it yet.
   * @param peer Who is at the other end.
   * @param parts What all connections share.
   */
  constructor(socket: Socket, peer: Peer, parts: ConnectionParts) {
    this.#socket = socket;
    this.#parts = parts;
    this.#peer = peer;
    this.left = new Promise((resolve) => {
      const isByUs = () => this.#isCutOff || this.#parts.isStopping();
      const leave = () => isByUs() ? undefined : resolve();
      for (const event of ["end", "error", "close"]) socket.once(event, leave);
    });
    socket.on("data", (chunk: Buffer) => this.#hear(chunk));
    socket.on("end", () => this.#end("its connection has ended"));
    socket.on("error", (error) => this.#end(`its connection broke: ${error.message}`));
    socket.on("close", () => this.#end("its connection was closed"));
  }

  notify(method: string, params: object): void {
    this.#send({ jsonrpc: "2.0", method, params });
  }

  close({ isPatient = false } = {}): Promise<void> {
    this.#end("the session has another connection or has ended", isPatient);
    if (!isPatient) this.#limitLastWords();
    if (this.#socket.destroyed) return Promise.resolve();
    return new Promise((resolve) => this.#socket.once("close", () => resolve()));
  }

  hasUnread(): boolean {
    const fd = descriptorOf(this.#socket);
    return fd >= 0 && isReadable(fd);
  }

  #hear(chunk: Buffer): void {
    if (this.#isOver) return;
    if (this.#session !== undefined) this.#session.lastHeardAt = performance.now();
    const openBefore = this.#openRequests;
    try {
      for (const message of this.#decoder.decode(chunk)) {
        if (this.#isOver) return;
        this.#handle(message);
      }
    } catch (error) {
      this.#refuseConnection(error as WireError);
    } finally {
      // A claim that waits since an earlier turn must not keep back the answers to heartbeats.
      if (this.#openRequests === openBefore) this.#flush();
    }
  }

  /** What cannot be read any further ends the connection, with an error that says why. */
  #refuseConnection(error: WireError): void {
    this.#parts.log("session-refused", this.#facts({ code: error.code, message: error.message }));
    this.#respond(null, { error: error.toWire() });
    this.#end(error.message);
  }

  #handle(message: unknown): void {
    let request: Request;
    try {
      request = readRequest(message);
    } catch (error) {
      return this.#respond(readId(message), { error: (error as WireError).toWire() });
    }
    let answer: unknown;
    // It may end the session, when the answer is still to come.
    this.#openRequests++;
    try {
      answer = this.#dispatch(request);
    } catch (error) {
      answer = Promise.reject(error);
    }
    this.#openRequests--;
    if (answer instanceof Promise) return this.#respondLater(request, answer);
    this.#respond(request.id, { result: answer });
    if (this.#isOver) this.#closeWhenAnswered();
  }

  #dispatch({ method, params }: Request): unknown {
    switch (method) {
      case "hello":
        return this.#hello(params);
      case "claim":
        return this.#claim(params);
      case "release":
        return this.#release(params);
      case "ping":
        return this.#ping();
      case "status":
        return this.#look(readStatus("show", params));
      case "watch":
        return this.#watch(params);
      case "processes":
        return this.#processes(params);
      case "signal":
        return this.#signal(params);
      case "break":
        return this.#break(params);
      default:
        throw new WireError(
          "unknown-method",
          `Cannot ${shorten(method)}: the agent has no such method`,
        );
    }
  }

  #hello(params: Record<string, unknown>): HelloResult {
    const hello = readHello(params);
    if (this.#session !== undefined) {
      throw new WireError("invalid-request", "Cannot say hello: this session has done so already");
    }
    if (hello.protocol !== PROTOCOL_VERSION) {
      throw new WireError(
        "protocol-mismatch",
        `Cannot talk to ${hello.client ?? "the client"}: it speaks protocol ${hello.protocol}, ` +
          `agent ${VERSION} speaks ${PROTOCOL_VERSION}`,
        { protocol: PROTOCOL_VERSION, agent: VERSION },
      );
    }
    const { resume } = hello;
    const { session, secret } = resume === undefined
      ? this.#openSession(hello)
      : { session: this.#resumeSession(resume), secret: resume };
    this.#session = session;
    return {
      protocol: PROTOCOL_VERSION,
      agent: VERSION,
      host: hostname(),
      bootId: BOOT_ID,
      pidNamespace: PID_NAMESPACE,
      owner: session.owner,
      ...timesFor(this.#parts.config, session.silenceMs),
      resumeMs: session.resumeMs,
      session: { id: session.id, secret, kind: session.kind, resumed: resume !== undefined },
      locks: session.state === "ending" ? [] : this.#parts.table.grantsOf(session),
    };
  }

  #openSession({ owner, session, silenceMs }: HelloParams) {
    const hello = {
      peer: this.#peer,
      owner,
      asked: session ?? "ssh",
      silenceMs: allowedSilence(silenceMs ?? this.#parts.config.silenceMs),
    };
    return Session.open(this.#parts, hello, this);
  }

  /** The secret proves the session; the user must be the same, and its SSH session too. */
  #resumeSession(secret: string): Session {
    const session = this.#parts.sessions.get(hashOf(secret));
    const isSameUser = session?.peer.uid === this.#peer.uid;
    if (session === undefined || !isSameUser || session.state === "ending") {
      const why = session === undefined || !isSameUser ? "it has ended" : "it is ending";
      const loss = this.#parts.losses.of(hashOf(secret), this.#peer.uid);
      const because = loss === undefined ? "" : `: ${loss.detail}`;
      throw new WireError("no-session", `Cannot resume the session: ${why}${because}`, { ...loss });
    }
    const { root } = findRoot(this.#peer, session.kind);
    const { root: expected } = session.marks;
    if (root.pid !== expected.pid || root.startTime !== expected.startTime) {
      throw new WireError("no-session", "Cannot resume the session: it belongs to another process");
    }
    session.resume(this);
    // It is told what it still has: nobody may have looked at the lock files while it was away.
    this.#parts.table.checkFilesOf(session);
    return session;
  }

  async #claim(params: Record<string, unknown>): Promise<unknown> {
    const session = this.#session;
    if (session === undefined) {
      throw new WireError("hello-first", "Cannot claim: the session has not said hello");
    }
    const claim = readClaim(params);
    if (session.state === "ending") {
      throw new WireError("no-session", `Cannot claim "${claim.name}": the session is ending`);
    }
    const granted = this.#parts.table.claim(session, claim);
    // While the holder is about it, so that the record of the lock has the session's marks.
    setImmediate(() => session.identify());
    return await granted;
  }

  #release(params: Record<string, unknown>): unknown {
    const name = readName("release", params);
    if (this.#session !== undefined) return this.#parts.table.release(this.#session, name);
    throw new WireError("not-held", `Cannot release "${name}": this session does not have it`, {
      name,
    });
  }

  #ping(): Record<string, never> {
    if (this.#session !== undefined) {
      this.#parts.table.checkFilesOf(this.#session);
      this.#session.identify();
      if (this.#parts.table.concerns(this.#session)) this.#session.checkRoot();
    }
    return {};
  }

  async #processes(params: Record<string, unknown>): Promise<{ processes: ProcessFacts[] }> {
    const session = this.#sessionFor("list processes");
    const selection = readSelection("list processes", params);
    const all = await this.#whileLooking(() => this.#findProcesses(session));
    const found = selectProcesses(all, selection);
    return {
      processes: found.slice(0, MAX_PROCESSES_SHOWN).map(({ pid, comm, state }) => ({
        pid,
        comm,
        state,
      })),
    };
  }

  /** To some processes of the session, or to all of them: never to any other. */
  #signal(params: Record<string, unknown>): Promise<{ signalled: number[] }> {
    const session = this.#sessionFor("signal processes");
    const { signal, selection } = readSignal(params);
    return this.#whileLooking(async () => {
      const all = await this.#findProcesses(session);
      const targets = selectProcesses(all, selection).filter(({ pid }) => pid !== this.#peer.pid);
      const sent = targets.filter((process) => sendSignals(process, [signal]) === "sent");
      const signalled = sent.map(({ pid }) => pid);
      const isLate = all.some((process) => !sent.includes(process) && !isAlive(process));
      // What ended before it could be signalled may have started another: KILL is for that as well.
      if (isLate && signal === "SIGKILL") {
        signalled.push(...await this.#killNew(session, selection));
      }
      return { signalled };
    });
  }

  /** Ends what the session starts within the next milliseconds. */
  async #killNew(session: Session, selection: ProcessSelection): Promise<number[]> {
    const killed: number[] = [];
    await session.followProcesses(({ pid }, pidfd, line) => {
      const isMeant = selectProcesses(line, selection).some((process) => process.pid === pid);
      if (!isMeant || pid === this.#peer.pid) return;
      if (sendSignalsBy(pidfd, ["SIGKILL"]) === "sent") killed.push(pid);
    });
    return killed;
  }

  async #findProcesses(session: Session): Promise<Leftover[]> {
    session.identify({ isAsked: true });
    const found = await session.findProcesses();
    return found.filter(({ isUnknown }) => isUnknown !== true);
  }

  async #break(params: Record<string, unknown>): Promise<{ broken: string[] }> {
    const { name, reason } = readBreak(params);
    const endings = this.#parts.table.endingsOf(name);
    if (endings.length === 0) {
      throw new WireError("not-held", `Cannot break "${name}": no session of this agent has it`, {
        name,
      });
    }
    const by = `${userName(this.#peer.uid) ?? `uid ${this.#peer.uid}`}`;
    const denied = endings.find(({ uid }) => !this.#parts.rights.mayEnd(this.#peer, uid));
    if (denied !== undefined) {
      const message = `Cannot break "${name}": it is held by uid ${denied.uid}, and ${by} is ` +
        `neither root nor that user nor in the admin group`;
      throw new WireError("denied", message, { name, uid: denied.uid });
    }
    this.#parts.log("lock-broken", { name, by, uid: this.#peer.uid, why: reason });
    for (const { end } of endings) end({ reason: "broken", detail: `broken by ${by}: ${reason}` });
    return Promise.resolve({ broken: endings.map(({ owner }) => owner) });
  }

  #sessionFor(what: string): Session {
    if (this.#session !== undefined) return this.#session;
    throw new WireError("hello-first", `Cannot ${what}: the session has not said hello`);
  }

  #watch(params: Record<string, unknown>): Promise<StatusResult> {
    const { name, after } = readStatus("watch", params);
    return this.#whileLooking(async () => {
      await this.#startWatching(name).ready;
      return await this.#page(name, after);
    });
  }

  #startWatching(name: string | undefined): { ready: Promise<void> } {
    this.#stopWatching?.();
    const tell = (change: ChangeParams) => {
      if (name !== undefined && change.lock.name !== name) return;
      const lock = fitLock(change.lock);
      this.#send({ jsonrpc: "2.0", method: "change", params: { ...change, lock } });
    };
    const stop = this.#parts.table.watch(tell);
    const foreign = this.#parts.foreign.watch(tell);
    this.#stopWatching = () => {
      stop();
      foreign.stop();
    };
    return foreign;
  }

  #look({ name, after }: StatusParams): Promise<StatusResult> {
    return this.#whileLooking(() => this.#page(name, after));
  }

  async #page(name: string | undefined, after: string | undefined): Promise<StatusResult> {
    return pageOf(await this.#parts.status({ name, after, limit: MAX_LOCKS_A_PAGE }), after);
  }

  /** @throws {WireError} `limit`: too many looks of this session are under way. */
  #whileLooking<T>(look: () => Promise<T>): Promise<T> {
    if (this.#openLooks >= MAX_OPEN_LOOKS) {
      throw new WireError(
        "limit",
        `Cannot look: ${MAX_OPEN_LOOKS} such requests of this session are not answered yet`,
        { limit: "status requests", max: MAX_OPEN_LOOKS },
      );
    }
    this.#openLooks++;
    return look().finally(() => this.#openLooks--);
  }

  #respondLater({ id }: Request, answer: Promise<unknown>): void {
    this.#openRequests++;
    answer.then(
      (result) => this.#settle(id, { result }),
      (error) => this.#settle(id, { error: this.#toWire(error) }),
    );
  }

  #settle(id: RequestId | undefined, outcome: Outcome): void {
    this.#openRequests--;
    this.#respond(id, outcome);
    this.#flush();
    if (this.#isOver) this.#closeWhenAnswered();
  }

  #toWire(error: unknown): unknown {
    if (error instanceof WireError) return error.toWire();
    const { message, stack } = error as Error;
    this.#parts.log("internal-error", this.#facts({ message, stack }));
    return new WireError("internal", `The agent failed: ${message}`).toWire();
  }

  #respond(id: RequestId | undefined, outcome: Outcome): void {
    if (id === undefined) return;
    this.#hold({ jsonrpc: "2.0", id, ...outcome });
  }

  #send(message: Message): void {
    this.#hold(message);
    this.#flush();
  }

  /**
   * Answers to requests that came together go out together: a claim's answer with the one to the
   * `hello` before it, in one packet. What waits for longer than a claim flushes what is held back.
   */
  #hold(message: Message): void {
    if (this.#socket.writable) this.#heldBack += this.#encode(message);
  }

  /** All that is said was cut to fit a line. Were it not, that must not cost more than this message. */
  #encode(message: Message): string {
    try {
      return encodeMessage(message);
    } catch (cause) {
      const error = this.#toWire(cause instanceof WireError ? new Error(cause.message) : cause);
      if (!("id" in message)) return "";
      return encodeMessage({ jsonrpc: "2.0", id: message.id, error });
    }
  }

  #flush(): void {
    if (this.#heldBack === "" || !this.#socket.writable) return;
    const text = this.#heldBack;
    this.#heldBack = "";
    this.#socket.write(text);
    if (this.#socket.writableLength <= MAX_UNREAD_BYTES) return;
    this.#end(`the session left ${MAX_UNREAD_BYTES} bytes of answers unread`);
    this.#cutOff();
  }

  #end(detail: string, isPatient = false): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stopWatching?.();
    // An agent that ends leaves sessions to its successor.
    if (!this.#parts.isStopping()) this.#session?.detach(this, detail);
    this.#parts.log("connection-ended", this.#facts({ detail }));
    if (this.#socket.destroyed) return;
    if (!isPatient) this.#limitLastWords();
    this.#closeWhenAnswered();
  }

  /** A peer that does not read its last answers must not keep the connection. */
  #limitLastWords(): void {
    if (this.#socket.destroyed || this.#impatience !== undefined) return;
    this.#impatience = setTimeout(() => this.#cutOff(), LAST_WORDS_MS);
    this.#socket.once("close", () => clearTimeout(this.#impatience));
  }

  #cutOff(): void {
    this.#isCutOff = true;
    this.#socket.destroy();
  }

  /** A peer that has only closed its own side still reads the answers to what it asked before. */
  #closeWhenAnswered(): void {
    if (this.#openRequests > 0) return;
    this.#flush();
    this.#socket.end();
  }

  #facts(facts: Record<string, unknown>): Record<string, unknown> {
    const { pid: peerPid, uid } = this.#peer;
    return { owner: this.#session?.owner, session: this.#session?.id, peerPid, uid, ...facts };
  }
}

type Outcome = { result: unknown } | { error: unknown };

type Message =
  | { jsonrpc: "2.0"; id: RequestId } & Outcome
  | { jsonrpc: "2.0"; method: string; params: unknown };

const BOOT_ID = readBootId();
const PID_NAMESPACE = readPidNamespace();

/** No limit is only for sessions of a local program: the kernel tells at once when it is gone. */
function allowedSilence(asked: number): number {
  return asked === 0 ? 0 : Math.min(Math.max(asked, MIN_SILENCE_MS), MAX_SILENCE_MS);
}
