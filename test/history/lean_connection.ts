import { connect, type Socket } from "node:net";
import type { Duplex } from "node:stream";

/** An answer to a request. */
export interface Answer {
  result?: Record<string, unknown>;
  error?: { message: string; data?: { code?: string } };
}

/**
 * A connection to the agent that does as little as it can, so that one process can have many: it
 * shares no code with the product.
 */
export class LeanConnection {
  /** Called with each notification. */
  onNotification: (method: string, params: Record<string, unknown>) => void = () => {};
  /** Resolved when the connection is gone. */
  readonly closed: Promise<void>;
  readonly #stream: Duplex;
  readonly #waiting = new Map<number, (answer: Answer | undefined) => void>();
  #nextId = 1;
  #rest = "";
  #isClosed = false;

  /**
   * @param stream The connection.
   */
  constructor(stream: Duplex) {
    this.#stream = stream;
    stream.setEncoding("utf8");
    stream.on("data", (text: string) => this.#hear(text));
    stream.on("error", () => {/* `close` follows */});
    this.closed = new Promise((resolve) => {
      const end = () => {
        this.#isClosed = true;
        for (const settle of this.#waiting.values()) settle(undefined);
        this.#waiting.clear();
        resolve();
      };
      stream.once("end", () => stream.destroy());
      stream.once("close", end);
    });
  }

  /** Sends a request; `undefined` when the connection ends before its answer. */
  request(method: string, params: Record<string, unknown>): Promise<Answer | undefined> {
    if (this.#isClosed) return Promise.resolve(undefined);
    const id = this.#nextId++;
    const answer = new Promise<Answer | undefined>((resolve) => this.#waiting.set(id, resolve));
    this.#stream.write(`${JSON.stringify({ jsonrpc: "2.0", id, method, params })}\n`);
    return answer;
  }

  /** Drops the connection. */
  destroy(): void {
    this.#stream.destroy();
  }

  #hear(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() as string;
    for (const line of lines) {
      const message = JSON.parse(line) as Answer & {
        id?: number;
        method?: string;
        params?: Record<string, unknown>;
      };
      if (message.method !== undefined) this.onNotification(message.method, message.params ?? {});
      else {
        this.#waiting.get(message.id as number)?.(message);
        this.#waiting.delete(message.id as number);
      }
    }
  }
}

/** Connects to a unix socket; `undefined` when nobody listens there now. */
export function connectLean(path: string): Promise<LeanConnection | undefined> {
  return new Promise((resolve) => {
    const socket: Socket = connect(path);
    socket.once("connect", () => resolve(new LeanConnection(socket)));
    socket.once("error", () => resolve(undefined));
  });
}
