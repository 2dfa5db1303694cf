/**
 * Takes the output of a command: collects it up to a limit, or hands it on as it comes.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Readable } from "node:stream";

/** What is to be done with output. */
export interface CollectorOptions {
  /** Strings or bytes. */
  encoding: "utf8" | "buffer";
  /** Largest output to collect, in bytes. */
  maxBytes: number;
  /** Takes each piece instead; reading waits for its promise. */
  onChunk?: ((chunk: string | Uint8Array) => void | Promise<void>) | undefined;
  /** Called once when there is more than `maxBytes`. What follows is dropped. */
  onTooMuch(): void;
  /** Called when `onChunk` throws or rejects. */
  onError(error: unknown): void;
}

/** The output of one stream of a command. */
export class OutputCollector {
  /** Resolves when everything was read and handed on. */
  readonly done: Promise<void>;
  readonly #options: CollectorOptions;
  readonly #decoder = new TextDecoder();
  #chunks: Buffer[] = [];
  #bytes = 0;
  #isTooMuch = false;
  #handedOn: Promise<void> = Promise.resolve();

  /**
   * @param stream The output.
   * @param options What is to be done with it.
   */
  constructor(stream: Readable, options: CollectorOptions) {
    this.#options = options;
    stream.on("data", (chunk: Buffer) => {
      if (options.onChunk === undefined) this.#keep(chunk);
      else this.#handOn(stream, this.#decode(chunk));
    });
    this.done = new Promise<void>((resolve) => stream.once("close", () => resolve()).resume())
      .then(() => {
        const rest = options.encoding === "utf8" ? this.#decoder.decode() : "";
        if (options.onChunk !== undefined && rest !== "") this.#handOn(stream, rest);
        return this.#handedOn;
      });
  }

  /** What was collected. */
  take(): string | Uint8Array {
    const all = Buffer.concat(this.#chunks);
    this.#chunks = [];
    return this.#options.encoding === "utf8" ? all.toString("utf8") : all;
  }

  #keep(chunk: Buffer): void {
    if (this.#isTooMuch) return;
    const left = this.#options.maxBytes - this.#bytes;
    this.#chunks.push(chunk.length > left ? chunk.subarray(0, left) : chunk);
    this.#bytes += chunk.length;
    if (chunk.length <= left) return;
    this.#isTooMuch = true;
    this.#options.onTooMuch();
  }

  #handOn(stream: Readable, chunk: string | Uint8Array): void {
    if (chunk.length === 0) return;
    try {
      const wait = this.#options.onChunk?.(chunk);
      if (!(wait instanceof Promise)) return;
      stream.pause();
      this.#handedOn = wait.then(
        () => void stream.resume(),
        (error) => {
          stream.resume();
          this.#options.onError(error);
        },
      );
    } catch (error) {
      this.#options.onError(error);
    }
  }

  #decode(chunk: Buffer): string | Uint8Array {
    if (this.#options.encoding === "buffer") return chunk;
    return this.#decoder.decode(chunk, { stream: true });
  }
}
