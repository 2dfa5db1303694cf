/**
 * All that the agent's commands print for people and pipes; events of `serve` go through `log.ts`.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { writeSync } from "node:fs";

/**
 * Prints a line to stdout.
 *
 * @param line The text, without its newline.
 */
export function printLine(line: string): void {
  writeWhole(1, line + "\n");
}

/**
 * Prints a value as JSON to stdout, on one line.
 *
 * @param value A JSON value.
 */
export function printJson(value: unknown): void {
  printLine(JSON.stringify(value));
}

/**
 * Tells a person, on stderr, what failed and what to do about it.
 *
 * @param message What was tried, on what, and what stood in the way.
 * @param hint The way out, where there is one.
 */
export function printError(message: string, hint?: string): void {
  writeWhole(2, `sshlock-agent: ${message}\n`);
  if (hint !== undefined) writeWhole(2, `hint: ${hint}\n`);
}

/** A pipe that was set to not block may be full; a terminal or file never is. */
function writeWhole(fd: number, text: string): void {
  let rest = Buffer.from(text);
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(fd, rest));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EPIPE") return;
      if (code !== "EAGAIN") throw error;
    }
  }
}
