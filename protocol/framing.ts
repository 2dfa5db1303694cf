/**
 * One JSON message a line, UTF-8, at most {@linkcode MAX_LINE_BYTES} bytes each.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { MAX_LINE_BYTES } from "./limits.ts";
import { WireError } from "./wire_error.ts";

const NEWLINE = 0x0a;
const UTF8 = new TextDecoder("utf-8", { fatal: true });

/**
 * Cuts a byte stream into parsed messages.
 *
 * What has come of an unfinished line is kept in pieces and joined once, so that a line that
 * arrives a byte at a time costs its sender's turns and not quadratic work here.
 */
export class MessageDecoder {
  #pieces: Uint8Array[] = [];
  #pendingBytes = 0;

  /** How many bytes of an unfinished line are held. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /**
   * The messages that `chunk` completes, in order. Empty lines are skipped.
   *
   * @param chunk What has arrived; the decoder may keep views of it.
   * @throws {WireError} `line-too-long` or `parse-error`: the stream cannot be read any further.
   */
  *decode(chunk: Uint8Array): Generator<unknown, void> {
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(NEWLINE, start);
      if (end < 0) break;
      const line = this.#take(chunk.subarray(start, end));
      start = end + 1;
      if (line.length > 0) yield parseLine(line);
    }
    if (start < chunk.length) this.#keep(chunk.subarray(start));
  }

  #keep(piece: Uint8Array): void {
    this.#checkLength(piece.length);
    this.#pieces.push(piece);
    this.#pendingBytes += piece.length;
    // A sender of single bytes must not make us hold an object for each of them.
    if (this.#pieces.length > 64) this.#pieces = [Buffer.concat(this.#pieces)];
  }

  #take(last: Uint8Array): Uint8Array {
    this.#checkLength(last.length);
    if (this.#pendingBytes === 0) return last;
    const line = Buffer.concat([...this.#pieces, last]);
    this.#pieces = [];
    this.#pendingBytes = 0;
    return line;
  }

  #checkLength(more: number): void {
    if (this.#pendingBytes + more < MAX_LINE_BYTES) return;
    throw new WireError(
      "line-too-long",
      `Cannot read message: line is longer than ${MAX_LINE_BYTES} bytes`,
      { maxLineBytes: MAX_LINE_BYTES },
    );
  }
}

/**
 * The line that carries `message`, with its newline.
 *
 * @param message A JSON value.
 * @throws {WireError} `line-too-long`: the peer would end the connection over it.
 */
export function encodeMessage(message: unknown): string {
  const line = JSON.stringify(message) + "\n";
  // Most lines are short; a code unit is at most 3 bytes, so only long ones are counted.
  if (line.length * 3 > MAX_LINE_BYTES && Buffer.byteLength(line) > MAX_LINE_BYTES) {
    throw new WireError(
      "line-too-long",
      `Cannot send message: line is longer than ${MAX_LINE_BYTES} bytes`,
      { maxLineBytes: MAX_LINE_BYTES },
    );
  }
  return line;
}

function parseLine(line: Uint8Array): unknown {
  try {
    return JSON.parse(UTF8.decode(line));
  } catch (cause) {
    throw new WireError(
      "parse-error",
      `Cannot read message: line is not JSON in UTF-8 (${(cause as Error).message})`,
    );
  }
}
