import { connect } from "node:net";
import { once } from "node:events";
import type { Duplex } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { eachLine } from "./child.ts";
import { EventLog } from "./events.ts";

/** The error object of an answer. */
export class RpcError extends Error {
  override name = "RpcError";
  readonly code: number;
  readonly data: Record<string, unknown>;

  constructor(error: { code: number; message: string; data?: Record<string, unknown> }) {
    super(error.message);
    this.code = error.code;
    this.data = error.data ?? {};
  }
}

/** A notification: a message without id. */
export interface Notification {
  method: string;
  params: Record<string, unknown>;
}

/** One message as it came. */
type Message = Record<string, unknown>;

/**
 * A client that shares no code with the product: one JSON-RPC 2.0 message a line, over any stream.
 * It checks nothing, so that a test sees what was really said.
 */
export class RpcClient implements AsyncDisposable {
  readonly stream: Duplex;
  /** Every message as it came, answers included; a line that is no JSON becomes `{ raw: line }`. */
  readonly messages = new EventLog<Message>();
  /** Resolves when the other side has closed, or the stream failed. */
  readonly closed: Promise<void>;
  #nextId = 1;

  constructor(stream: Duplex) {
    this.stream = stream;
    this.closed = new Promise((resolve) => stream.once("close", () => resolve()));
    this.closed.then(() => this.messages.end("the connection is closed"));
    stream.on("error", (error) => this.messages.end(`the connection failed: ${error.message}`));
    stream.once("end", () => this.messages.end("the other side has closed the connection"));
    eachLine(stream, (line) => this.messages.push(parse(line)));
  }

  /**
   * Sends a request and waits for its answer.
   *
   * @throws {RpcError} The answer is an error.
   * @throws {WaitTimeoutError} No answer within `deadlineMs` (30,000 unless told), or the connection ended before it.
   */
  async request<T = Record<string, unknown>>(
    method: string,
    params: Record<string, unknown> = {},
    deadlineMs = 30_000,
  ): Promise<T> {
    const id = this.#nextId++;
    const from = this.messages.all.length;
    this.send({ jsonrpc: "2.0", id, method, params });
    const what = `the answer to ${method}`;
    const answer = await this.messages.waitFor((m) => m.id === id, { what, deadlineMs, from });
    if (answer.error !== undefined) {
      throw new RpcError(answer.error as ConstructorParameters<typeof RpcError>[0]);
    }
    return answer.result as T;
  }

  /** Sends messages in one write, as they are. */
  send(...messages: unknown[]): void {
    this.sendRaw(messages.map((message) => `${JSON.stringify(message)}\n`).join(""));
  }

  /** Sends bytes that need not be a message. */
  sendRaw(bytes: string | Uint8Array): void {
    this.stream.write(bytes);
  }

  /** All notifications, past and to come, until the connection ends. */
  async *notifications(): AsyncIterable<Notification> {
    for (let from = 0;;) {
      const next = await this.#nextNotification(from).catch(() => undefined);
      if (next === undefined) return;
      from = this.messages.all.indexOf(next) + 1;
      yield asNotification(next);
    }
  }

  /** Waits for a notification of this method, past ones included. @throws {WaitTimeoutError} */
  async notification(method: string, deadlineMs?: number): Promise<Notification> {
    const what = `the notification ${method}`;
    return asNotification(
      await this.messages.waitFor((m) => m.method === method, { what, deadlineMs }),
    );
  }

  /** Ends our side, then waits until the other side has closed too. */
  async close(): Promise<void> {
    this.stream.end();
    this.stream.resume();
    await this.closed;
  }

  /** Drops the connection at once. */
  async destroy(): Promise<void> {
    this.stream.destroy();
    await this.closed;
  }

  /** Drops the connection. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.destroy();
  }

  #nextNotification(from: number): Promise<Message> {
    // A day: an iteration ends with its connection, never by its own clock.
    const deadlineMs = 86_400_000;
    return this.messages.waitFor((m) => m.method !== undefined, { from, deadlineMs });
  }
}

/**
 * Connects to a unix socket. The backlog may be full for a moment (EAGAIN), so that is tried again.
 *
 * @throws The socket does not exist, nobody listens, or it stayed busy for 5 s.
 */
export async function connectRpc(socketPath: string): Promise<RpcClient> {
  for (let triesLeft = 1000;; triesLeft--) {
    const stream = connect(socketPath);
    try {
      await once(stream, "connect");
      return new RpcClient(stream);
    } catch (error) {
      stream.destroy();
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN" || triesLeft === 0) throw error;
      await delay(5);
    }
  }
}

function asNotification(message: Message): Notification {
  return {
    method: message.method as string,
    params: (message.params ?? {}) as Record<string, unknown>,
  };
}

function parse(line: string): Message {
  try {
    return JSON.parse(line) as Message;
  } catch {
    return { raw: line };
  }
}
