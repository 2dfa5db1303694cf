/**
 * One connection to the agent: reads its requests, answers them, and ends what it has when it ends.
 *
 * @module
 */

import type { Buffer } from "node:buffer";
import type { Socket } from "node:net";
import { hostname } from "node:os";
import { performance } from "node:perf_hooks";
import { encodeMessage, MessageDecoder } from "../protocol/framing.ts";
import {
  GIVE_UP_MS,
  HEARTBEAT_MS,
  MAX_SILENCE_MS,
  MIN_SILENCE_MS,
  PROTOCOL_VERSION,
  SILENCE_MS,
} from "../protocol/limits.ts";
import {
  type HelloResult,
  type LostParams,
  type QueuedParams,
  readClaim,
  readHello,
  readId,
  readName,
  readRequest,
  readStatus,
  type Request,
  type RequestId,
  shorten,
  type StatusParams,
  type StatusResult,
} from "../protocol/messages.ts";
import { VERSION } from "../protocol/version.ts";
import { WireError } from "../protocol/wire_error.ts";
import type { Claimant, LockTable } from "./lock_table.ts";
import type { Log } from "./log.ts";
import { findClientAddress, findSshdProcess, type Peer } from "./peer.ts";
import { readBootId, readPidNamespace } from "./proc.ts";
import type { Listened, SilenceWatch } from "./silence.ts";
import { fitLock, pageOf } from "./status_page.ts";

/** Answers that a peer may leave unread, in bytes, before it is cut off. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024;

/** Time that a peer has to read its last answers, in milliseconds. */
const LAST_WORDS_MS = 2_000;

/** Looks at all locks that one session may have under way: each reads a good part of /proc. */
const MAX_OPEN_LOOKS = 8;

/** What all sessions of an agent share. */
export interface SessionParts {
  /** The locks. */
  table: LockTable;
  /** Who has been silent for too long. */
  silence: SilenceWatch;
  /** Where events go. */
  log: Log;
  /** Everything that holds a lock on this host, for `status`. */
  status(name: string | undefined): Promise<StatusResult>;
}

/** One connection to the agent. */
export class Session implements Claimant, Listened {
  readonly peer: Peer;
  owner: string;
  clientAddress: string | undefined;
  silenceMs = SILENCE_MS;
  lastHeardAt = performance.now();

  readonly #socket: Socket;
  readonly #parts: SessionParts;
  readonly #decoder = new MessageDecoder();
  #hasSaidHello = false;
  #isListenedTo = false;
  #isOver = false;
  #heldBack = "";
  #openRequests = 0;
  #openLooks = 0;
  #stopWatching: (() => void) | undefined;

  /**
   * @param socket The accepted connection, with nothing read from it yet.
   * @param peer Who is at the other end.
   * @param parts What all sessions share.
   */
  constructor(socket: Socket, peer: Peer, parts: SessionParts) {
    this.#socket = socket;
    this.#parts = parts;
    this.peer = peer;
    this.owner = `uid:${peer.uid}`;
    socket.on("data", (chunk: Buffer) => this.#hear(chunk));
    socket.on("end", () => this.#end("the session's connection has ended"));
    socket.on("error", (error) => this.#end(`the session's connection broke: ${error.message}`));
    socket.on("close", () => this.#end("the session's connection was closed"));
  }

  notifyQueued(params: QueuedParams): void {
    this.#send({ jsonrpc: "2.0", method: "queued", params });
  }

  notifyLost(params: LostParams): void {
    this.#send({ jsonrpc: "2.0", method: "lost", params });
  }

  endForSilence(): void {
    const detail = `the session was silent for ${this.silenceMs} ms`;
    this.#parts.log("session-silent", this.#facts({ silenceMs: this.silenceMs }));
    this.#parts.table.loseAll(this, "silence", detail);
    this.#end(detail);
  }

  #hear(chunk: Buffer): void {
    if (this.#isOver) return;
    this.lastHeardAt = performance.now();
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
    try {
      answer = this.#dispatch(request);
    } catch (error) {
      answer = Promise.reject(error);
    }
    if (answer instanceof Promise) this.#respondLater(request, answer);
    else this.#respond(request.id, { result: answer });
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
      default:
        throw new WireError(
          "unknown-method",
          `Cannot ${shorten(method)}: the agent has no such method`,
        );
    }
  }

  #hello(params: Record<string, unknown>): HelloResult {
    const hello = readHello(params);
    if (this.#hasSaidHello) {
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
    this.silenceMs = this.#allowedSilence(hello.silenceMs);
    this.owner = hello.owner ?? this.owner;
    this.#hasSaidHello = true;
    return {
      protocol: PROTOCOL_VERSION,
      agent: VERSION,
      host: hostname(),
      bootId: BOOT_ID,
      pidNamespace: PID_NAMESPACE,
      owner: this.owner,
      ...timesFor(this.silenceMs),
    };
  }

  /** Only a local program may be silent for ever: the kernel tells at once when it is gone. */
  #allowedSilence(asked = SILENCE_MS): number {
    if (asked === 0 && findSshdProcess(this.peer.pid) === undefined) return 0;
    if (asked === 0) return SILENCE_MS;
    return Math.min(Math.max(asked, MIN_SILENCE_MS), MAX_SILENCE_MS);
  }

  async #claim(params: Record<string, unknown>): Promise<unknown> {
    if (!this.#hasSaidHello) {
      throw new WireError("hello-first", "Cannot claim: the session has not said hello");
    }
    const claim = readClaim(params);
    const granted = this.#parts.table.claim(this, claim);
    this.#listen();
    try {
      return await granted;
    } finally {
      this.#stopListeningIfIdle();
      setImmediate(() => this.#learnAddress());
    }
  }

  #release(params: Record<string, unknown>): unknown {
    const result = this.#parts.table.release(this, readName("release", params));
    this.#stopListeningIfIdle();
    return result;
  }

  #ping(): Record<string, never> {
    this.#parts.table.checkFilesOf(this);
    return {};
  }

  #watch(params: Record<string, unknown>): Promise<StatusResult> {
    const asked = readStatus("watch", params);
    const { name } = asked;
    const first = this.#look(asked);
    this.#stopWatching?.();
    this.#stopWatching = this.#parts.table.watch((change) => {
      if (name !== undefined && change.lock.name !== name) return;
      const lock = fitLock(change.lock);
      this.#send({ jsonrpc: "2.0", method: "change", params: { ...change, lock } });
    });
    return first;
  }

  /** @throws {WireError} `limit`: too many looks of this session are under way. */
  #look({ name, after }: StatusParams): Promise<StatusResult> {
    if (this.#openLooks >= MAX_OPEN_LOOKS) {
      throw new WireError(
        "limit",
        `Cannot show locks: ${MAX_OPEN_LOOKS} such requests of this session are not answered yet`,
        { limit: "status requests", max: MAX_OPEN_LOOKS },
      );
    }
    return this.#lookAt(name, after);
  }

  async #lookAt(name: string | undefined, after: string | undefined): Promise<StatusResult> {
    this.#openLooks++;
    try {
      return pageOf(await this.#parts.status(name), after);
    } finally {
      this.#openLooks--;
    }
  }

  /** A session's silence means something only while it has or wants a lock. */
  #listen(): void {
    if (this.#isListenedTo || this.silenceMs === 0 || !this.#parts.table.concerns(this)) return;
    this.#isListenedTo = true;
    this.#parts.silence.add(this);
  }

  #stopListeningIfIdle(): void {
    if (!this.#isListenedTo || this.#parts.table.concerns(this)) return;
    this.#isListenedTo = false;
    this.#parts.silence.delete(this);
  }

  /** After the answer, because /proc is slow beside a claim. */
  #learnAddress(): void {
    if (!this.#isOver) this.clientAddress ??= findClientAddress(this.peer.pid);
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
    this.#socket.destroy();
  }

  #end(detail: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stopWatching?.();
    this.#parts.table.endSession(this, detail);
    this.#parts.silence.delete(this);
    this.#parts.log("session-ended", this.#facts({ detail }));
    if (this.#socket.destroyed) return;
    // A peer that does not read its last answers must not keep the connection.
    const impatience = setTimeout(() => this.#socket.destroy(), LAST_WORDS_MS);
    this.#socket.once("close", () => clearTimeout(impatience));
    this.#closeWhenAnswered();
  }

  /** A peer that has only closed its own side still reads the answers to what it asked before. */
  #closeWhenAnswered(): void {
    if (this.#openRequests > 0) return;
    this.#flush();
    this.#socket.end();
  }

  #facts(facts: Record<string, unknown>): Record<string, unknown> {
    return { owner: this.owner, peerPid: this.peer.pid, uid: this.peer.uid, ...facts };
  }
}

type Outcome = { result: unknown } | { error: unknown };

type Message =
  | { jsonrpc: "2.0"; id: RequestId } & Outcome
  | { jsonrpc: "2.0"; method: string; params: unknown };

const BOOT_ID = readBootId();
const PID_NAMESPACE = readPidNamespace();

/** The heartbeat and the controller's limit keep their share of another silence limit. */
function timesFor(silenceMs: number): Pick<HelloResult, "heartbeatMs" | "giveUpMs" | "silenceMs"> {
  if (silenceMs === 0) return { heartbeatMs: HEARTBEAT_MS, giveUpMs: GIVE_UP_MS, silenceMs };
  const share = silenceMs / SILENCE_MS;
  return {
    heartbeatMs: Math.floor(HEARTBEAT_MS * share),
    giveUpMs: Math.floor(GIVE_UP_MS * share),
    silenceMs,
  };
}
