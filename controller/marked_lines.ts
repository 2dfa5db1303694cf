/**
 * Our own lines in the output of a remote script.
 *
 * A login shell may say anything before it (a greeting in .bashrc), so each line of ours begins with a mark.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Readable } from "node:stream";

/** Longest text without a newline that is kept, in bytes. */
const MAX_NOISE_BYTES = 64 * 1024;

/**
 * Calls back with what follows the mark on each line that has it.
 *
 * @param stream The output.
 * @param mark What our lines begin with.
 * @param onLine Called with the rest of the line; it returns `"stop"` when what follows is no longer lines.
 * @param onRest Called with what follows then, as it comes.
 */
export function readMarkedLines(
  stream: Readable,
  mark: string,
  onLine: (text: string) => "stop" | void,
  onRest?: (chunk: Buffer) => void,
): void {
  let pending = Buffer.alloc(0);
  let isStopped = false;
  stream.on("data", (chunk: Buffer) => {
    if (isStopped) return onRest?.(chunk);
    pending = Buffer.concat([pending, chunk]);
    for (let end = pending.indexOf(10); end >= 0; end = pending.indexOf(10)) {
      const line = pending.toString("utf8", 0, end).replace(/\r$/, "");
      pending = pending.subarray(end + 1);
      // A greeting without a newline may stand before the mark.
      const at = line.indexOf(mark);
      if (at < 0 || onLine(line.slice(at + mark.length)) !== "stop") continue;
      isStopped = true;
      if (pending.length > 0) onRest?.(pending);
      return;
    }
    if (pending.length > MAX_NOISE_BYTES) pending = pending.subarray(-MAX_NOISE_BYTES);
  });
}

/**
 * The end of what a stream says, for messages.
 *
 * @param stream The stream; it is read to its end.
 * @returns A function that gives the last 500 characters so far, trimmed.
 */
export function keepTail(stream: Readable): () => string {
  let tail = "";
  stream.on("data", (chunk: Buffer) => tail = (tail + chunk.toString("utf8")).slice(-500));
  return () => tail.trim();
}
