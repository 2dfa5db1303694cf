/**
 * The agent's own commands as clients of a running agent.
 *
 * @module
 */

import type { Buffer } from "node:buffer";
import { connect, type Socket } from "node:net";
import { encodeMessage, MessageDecoder } from "../protocol/framing.ts";
import { WireError } from "../protocol/wire_error.ts";

/**
 * What says that an agent is there: its backlog is full (EAGAIN), or it has refused the connection
 * before this side knew that it had one.
 */
const THERE: readonly unknown[] = ["EAGAIN", "ECONNRESET", "EPIPE"];

/** Tries in such a case; each waits a little longer. */
const MAX_BUSY_TRIES = 20;

/** How a connection to an agent came out. */
export type AgentConnection =
  | { kind: "connected"; socket: Socket }
  | { kind: "absent"; reason: string };

/** A connection to a running agent. */
export class AgentClient {
  readonly #socket: Socket;
  readonly #decoder = new MessageDecoder();
  readonly #pending = new Map<
    number,
    { resolve: (result: unknown) => void; reject: (error: Error) => void }
  >();
  #nextId = 1;
  #closedBy: Error | undefined;
  /** Called with each notification. */
  onNotification: ((method: string, params: unknown) => void) | undefined;
  /** Called once when the connection has ended. */
  onClose: ((error?: Error) => void) | undefined;

  /**
   * @param socket A connected socket.
   */
  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk) => this.#hear(chunk as Buffer));
    socket.on("error", (error) => this.#close(error));
    socket.on("close", () => this.#close());
  }

  /** Whether the connection has ended without a word from the agent why. */
  get hasEnded(): boolean {
    const cause = this.#closedBy;
    return cause !== undefined && (!(cause instanceof WireError) || cause.code === "cancelled");
  }

  /**
   * Sends a request.
   *
   * @param method The method.
   * @param params Its parameters.
   * @throws {WireError} The agent refused it, or the connection ended first.
   */
  request<Result>(method: string, params: object = {}): Promise<Result> {
    const id = this.#nextId++;
    return new Promise<Result>((resolve, reject) => {
      if (this.#closedBy !== undefined) return reject(this.#closedBy);
      this.#pending.set(id, { resolve: resolve as (result: unknown) => void, reject });
      this.#socket.write(encodeMessage({ jsonrpc: "2.0", id, method, params }));
    });
  }

  /** Ends the connection, and with it whatever was claimed over it. */
  close(): void {
    this.#socket.end();
  }

  #hear(chunk: Buffer): void {
    try {
      for (const message of this.#decoder.decode(chunk)) this.#take(message);
    } catch (error) {
      this.#socket.destroy(error as Error);
    }
  }

  #take(message: unknown): void {
    const { id, method, params, result, error } = message as Record<string, unknown>;
    if (typeof method === "string") return this.onNotification?.(method, params);
    const pending = this.#pending.get(id as number);
    this.#pending.delete(id as number);
    if (error === undefined) return pending?.resolve(result);
    const failure = WireError.fromWire(error);
    if (pending !== undefined) pending.reject(failure);
    else this.#socket.destroy(failure);
  }

  #close(error?: Error): void {
    const cause = error ?? new WireError("cancelled", "The agent has closed the connection");
    this.#closedBy ??= cause;
    for (const { reject } of this.#pending.values()) reject(cause);
    this.#pending.clear();
    this.onClose?.(error);
    this.onClose = undefined;
  }
}

/**
 * Connects to the first agent that listens.
 *
 * @param sockets Paths to try, in this order.
 * @returns `absent` when nobody listens on any of them, or none is ours to open.
 */
export async function connectToAgent(sockets: string[]): Promise<AgentConnection> {
  const reasons: string[] = [];
  for (const path of sockets) {
    try {
      return { kind: "connected", socket: await dial(path) };
    } catch (error) {
      reasons.push(`${path}: ${describeDialFailure(error as NodeJS.ErrnoException)}`);
    }
  }
  return { kind: "absent", reason: reasons.join("; ") };
}

async function dial(path: string): Promise<Socket> {
  for (let tries = 1;; tries++) {
    try {
      return await dialOnce(path);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (!THERE.includes(code) || tries === MAX_BUSY_TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, tries * 5));
    }
  }
}

function dialOnce(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      resolve(socket);
    });
  });
}

function describeDialFailure(error: NodeJS.ErrnoException): string {
  if (error.code === "ENOENT") return "no such socket";
  if (error.code === "ECONNREFUSED") return "nobody listens";
  if (error.code === "EACCES") return "permission denied";
  return error.message;
}
