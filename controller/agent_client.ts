/**
 * Requests and notifications over one link to an agent: JSON-RPC 2.0, and no knowledge of locks.
 *
 * @module
 */

import type { Readable, Writable } from "node:stream";

import { encodeMessage, MessageDecoder } from "../protocol/framing.ts";
import type { HelloParams, HelloResult } from "../protocol/messages.ts";
import { WireError } from "../protocol/wire_error.ts";
import { AgentError, ProtocolError } from "./errors.ts";
import { ServiceMissingError } from "./lock_service.ts";

/** A pair of byte streams to an agent. */
export interface Link {
  /** What the agent says. */
  readonly input: Readable;
  /** What is said to it. */
  readonly output: Writable;
  /** Resolves when the link is over: with what is known of the cause. */
  readonly closed: Promise<LinkEnd>;
  /** Ends the link. */
  close(): void;
}

/** How a link ended. */
export interface LinkEnd {
  /** The cause in a sentence. */
  detail: string;
  /** Whether nobody was there in the first place, so that another way is to be tried. */
  isMissing: boolean;
}

/** What the owner of a client is told. */
export interface ClientEvents {
  /** Called before anything that came is looked at. */
  onArrival(): void;
  /** A notification. */
  onNotification(method: string, params: Record<string, unknown>): void;
  /** A request that was sent at `sentMs` (of `performance.now()`) was answered. */
  onAnswer(sentMs: number): void;
}

interface PendingRequest {
  sentMs: number;
  resolve(result: unknown): void;
  reject(error: Error): void;
}

/** A client of one agent. `hello` goes out in one write with the first request. */
export class AgentClient {
  /** What the agent answered to `hello`. */
  readonly hello: Promise<HelloResult>;
  /** Resolves when the link is over: with the cause in a sentence. */
  readonly closed: Promise<string>;
  readonly #link: Link;
  readonly #events: ClientEvents;
  readonly #pending = new Map<number, PendingRequest>();
  #lastId = 0;
  #unsent = "";
  #isProven = false;
  #failure: Error | undefined;

  /**
   * @param link The link, fresh.
   * @param hello The parameters of `hello`.
   * @param events Who is told.
   */
  constructor(link: Link, hello: HelloParams, events: ClientEvents) {
    this.#link = link;
    this.#events = events;
    this.hello = this.#enqueue("hello", hello) as Promise<HelloResult>;
    this.hello.then(() => this.#isProven = true, () => {});
    this.closed = link.closed.then((end) => this.#end(end));
    this.#read(link.input);
    // The end of a link is told by `closed`.
    link.output.on("error", () => {});
  }

  /** Whether requests can no longer be sent. */
  get isOver(): boolean {
    return this.#failure !== undefined;
  }

  /**
   * Sends a request.
   *
   * @param method The method.
   * @param params Its parameters.
   * @throws {ServiceMissingError} The link ended before the agent had answered anything.
   * @throws {WireError} The agent answered with an error.
   * @throws {AgentError} The link ended before the answer came.
   */
  request(method: string, params: object): Promise<unknown> {
    const answer = this.#enqueue(method, params);
    this.#flush();
    return answer;
  }

  /**
   * Ends the link.
   *
   * @param failure What requests are rejected with.
   */
  close(failure: Error): void {
    this.#failure ??= failure;
    this.#rejectAll(failure);
    this.#link.close();
  }

  #enqueue(method: string, params: object): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) return reject(this.#failure);
      const id = ++this.#lastId;
      this.#unsent += encodeMessage({ jsonrpc: "2.0", id, method, params });
      this.#pending.set(id, { sentMs: performance.now(), resolve, reject });
    });
  }

  #flush(): void {
    if (this.#unsent === "" || this.#failure !== undefined) return;
    this.#link.output.write(this.#unsent);
    this.#unsent = "";
  }

  #read(input: Readable): void {
    const decoder = new MessageDecoder();
    input.on("data", (chunk: Uint8Array) => {
      this.#events.onArrival();
      if (this.#failure !== undefined) return;
      try {
        for (const message of decoder.decode(chunk)) this.#dispatch(message);
      } catch (cause) {
        const { message } = cause as Error;
        this.close(new ProtocolError("protocol", message, {}, { cause }));
      }
    });
  }

  #dispatch(message: unknown): void {
    const { id, method, params, result, error } = (message ?? {}) as Record<string, unknown>;
    if (typeof method === "string") {
      this.#events.onNotification(method, (params ?? {}) as Record<string, unknown>);
      return;
    }
    const request = this.#pending.get(id as number);
    if (request === undefined) {
      // An error without an id is about something that the agent could not read.
      if (error !== undefined) this.close(asAgentError(error));
      return;
    }
    this.#pending.delete(id as number);
    this.#events.onAnswer(request.sentMs);
    if (error === undefined) request.resolve(result);
    else request.reject(WireError.fromWire(error));
  }

  #end({ detail, isMissing }: LinkEnd): string {
    this.#failure ??= this.#isProven || !isMissing
      ? new AgentError("link-closed", `Cannot go on with the agent: ${detail}`)
      : new ServiceMissingError(detail);
    this.#rejectAll(this.#failure);
    return detail;
  }

  #rejectAll(failure: Error): void {
    for (const request of this.#pending.values()) request.reject(failure);
    this.#pending.clear();
  }
}

function asAgentError(error: unknown): AgentError {
  const { code, message, facts } = WireError.fromWire(error);
  return new AgentError(code, message, facts);
}
