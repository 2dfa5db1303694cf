/**
 * All that `sshlock` prints of its own.
 *
 * @module
 */

import process from "node:process";
import type { Writable } from "node:stream";

/**
 * Prints a line to standard output.
 *
 * @param line The text, without its newline.
 */
export function printLine(line: string): void {
  process.stdout.write(line + "\n");
}

/**
 * Prints a value as JSON on one line to standard output.
 *
 * @param value A JSON value.
 */
export function printJson(value: unknown): void {
  printLine(JSON.stringify(value));
}

/**
 * Tells a person something on standard error.
 *
 * @param message The text.
 */
export function printNote(message: string): void {
  process.stderr.write(`${dim("sshlock:")} ${tame(message)}\n`);
}

/**
 * Tells a person on standard error what failed, and the way out.
 *
 * @param message What was tried, on what, and what stood in the way.
 * @param hint The way out, where there is one.
 */
export function printError(message: string, hint?: string): void {
  process.stderr.write(`${red("sshlock:")} ${tame(message)}\n`);
  if (hint !== undefined) process.stderr.write(`${dim("hint:")} ${tame(hint)}\n`);
}

/**
 * A text that comes from elsewhere (a purpose, a command line), without what could write to the terminal.
 *
 * @param text The text.
 */
export function tame(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ").trimEnd();
}

/**
 * Hands output of the host through to standard output. Resolves when more may come.
 *
 * @param chunk The output.
 * @throws {Error} `EPIPE`: nobody reads it any more.
 */
export function passToStdout(chunk: string | Uint8Array): Promise<void> {
  return pass(process.stdout, chunk);
}

/**
 * Hands output of the host through to standard error. Resolves when more may come.
 *
 * @param chunk The output.
 * @throws {Error} `EPIPE`: nobody reads it any more.
 */
export function passToStderr(chunk: string | Uint8Array): Promise<void> {
  return pass(process.stderr, chunk);
}

/**
 * A bold text, on a terminal.
 *
 * @param text The text.
 */
export function bold(text: string): string {
  return paint(process.stdout, "1", text);
}

/** Waits until everything printed so far has left the process. */
export async function flushOutput(): Promise<void> {
  await Promise.all(
    [process.stdout, process.stderr].map((stream) =>
      new Promise<void>((resolve) => {
        if (stream.destroyed || !stream.writable) return resolve();
        stream.write("", () => resolve());
      })
    ),
  );
}

/** A reader that went away (`| head`) is no failure of ours. */
export function ignoreBrokenPipes(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EPIPE") throw error;
    });
  }
}

function pass(stream: Writable, chunk: string | Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(chunk, (error) => error ? reject(error) : resolve());
  });
}

function red(text: string): string {
  return paint(process.stderr, "31", text);
}

function dim(text: string): string {
  return paint(process.stderr, "2", text);
}

/** @see https://no-color.org */
function paint(stream: NodeJS.WriteStream, code: string, text: string): string {
  const isColourful = stream.isTTY && !process.env.NO_COLOR && process.env.TERM !== "dumb";
  return isColourful ? `\x1b[${code}m${text}\x1b[0m` : text;
}
