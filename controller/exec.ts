/**
 * Runs one command on the host and tells how it ended.
 *
 * @module
 */

import type { Buffer } from "node:buffer";
import { Readable } from "node:stream";

import {
  type CommandFacts,
  CommandFailedError,
  CommandNotEndedError,
  CommandTimeoutError,
  OutputLimitError,
} from "./command_errors.ts";
import type { ProcessFacts } from "../protocol/messages.ts";
import type { Sideband } from "./command_processes.ts";
import { endRemotely, type EndReport } from "./end_remotely.ts";
import { asEndable, type EndableProcess, startEndable } from "./endable_process.ts";
import { OutputCollector } from "./output_collector.ts";
import type { Command } from "./quote.ts";
import type { RemoteExit, RemoteProcess, SshTransport } from "./ssh_transport.ts";

/** Largest output that is held, in bytes, for each of standard output and standard error. */
export const MAX_OUTPUT_BYTES = 64 * 1024 * 1024;

/** Time between TERM and KILL when a command is ended from here, in milliseconds. */
export const KILL_AFTER_MS = 5_000;

/** What a command reads. */
export type CommandInput = string | Uint8Array | Readable | AsyncIterable<string | Uint8Array>;

/** How output is given to the caller. */
export type Encoding = "utf8" | "buffer";

/** A command while it runs on the host. */
export interface RunningCommand {
  /**
   * Sends a signal to the command and what runs below it, through the agent; where none is, to its
   * process group. It resolves when the signal was sent.
   *
   * @param name The signal, `INT` or `SIGINT`.
   */
  signal(name: string): Promise<void>;
  /** What lives of it on the host, wherever it has gone; `undefined` where no agent can tell. */
  processes(): Promise<ProcessFacts[] | undefined>;
}

/** Options of `exec`. */
export interface ExecOptions {
  /** What the command reads; default: nothing, its standard input is at its end. */
  stdin?: CommandInput | undefined;
  /** Time for the command, in milliseconds; after it the command is ended. Default: none. */
  timeoutMs?: number | undefined;
  /** Time between TERM and KILL when the command is ended, in milliseconds; default 5,000. */
  killAfterMs?: number | undefined;
  /**
   * Ends the command and all that it has started; the promise rejects with the signal's reason, once
   * they are gone.
   */
  signal?: AbortSignal | undefined;
  /** Called once the command has started. */
  onStart?: ((command: RunningCommand) => void) | undefined;
  /** Called with each piece of standard output, which is not collected then. Reading waits for a promise. */
  onStdout?: ((chunk: string | Uint8Array) => void | Promise<void>) | undefined;
  /** Called with each piece of standard error, which is not collected then. Reading waits for a promise. */
  onStderr?: ((chunk: string | Uint8Array) => void | Promise<void>) | undefined;
  /** `utf8` (the default) gives strings, `buffer` gives bytes. */
  encoding?: Encoding | undefined;
  /** Whether an exit code other than 0 is an error; default true. */
  check?: boolean | undefined;
  /** Largest output to collect, in bytes, for each stream; default 64 MiB. More ends the command. */
  maxOutputBytes?: number | undefined;
}

/** How a command went. */
export interface ExecResult<Output = string> {
  /** The command as it may be shown. */
  command: string;
  /** Its standard output; empty where it was streamed. */
  stdout: Output;
  /** Its standard error; empty where it was streamed. */
  stderr: Output;
  /** Its exit code; `null` when a signal ended it. */
  exitCode: number | null;
  /** The signal that ended it, such as `SIGTERM`. */
  signal: string | null;
  /** How long it took, in milliseconds. */
  durationMs: number;
}

/** What running a command needs of its session. */
export interface ExecParts {
  /** The SSH connection. */
  transport: SshTransport;
  /** The way to the agent, for signals. */
  sideband: Sideband;
  /** The host, for messages. */
  host: string;
}

/** Why a command is ended before its own end. The first cause wins. */
type Interruption =
  | { kind: "timeout" }
  | { kind: "output" }
  | { kind: "error"; error: unknown };

const UNKNOWN_EXIT = Promise.resolve<RemoteExit>({ exitCode: null, signal: null });

/**
 * Runs a command on the host.
 *
 * @param parts What it needs of its session.
 * @param command The command.
 * @param options Options.
 * @throws {CommandFailedError} It ended with another exit code than 0, or by a signal.
 * @throws {CommandTimeoutError} It took longer than `timeoutMs`. It was sent TERM, then KILL.
 * @throws {OutputLimitError} It wrote more than `maxOutputBytes`.
 * @throws {CommandNotEndedError} It was to be ended, and something of it may still run; `cause` says why.
 * @throws {ConnectError} The connection was lost.
 */
export async function runCommand(
  parts: ExecParts,
  command: Command,
  options: ExecOptions,
): Promise<ExecResult<string | Uint8Array>> {
  options.signal?.throwIfAborted();
  const startMs = performance.now();
  const { transport, host } = parts;
  const process = await startCommand(parts, command, options);
  const interruption = new Interrupter(process, options);
  const stdout = collect(process.stdout, options.onStdout, options, interruption);
  const stderr = collect(process.stderr, options.onStderr, options, interruption);
  feed(process, options.stdin, interruption);
  const wholeEnd = Promise.all([process.closed, stdout.done, stderr.done]);
  await Promise.race([wholeEnd, interruption.ended]);
  const cause = interruption.finish();
  // The command itself may be gone while something that it has started is not.
  const report = cause === undefined ? undefined : await interruption.ended;
  // After an interruption a host that is gone does not tell how it ended.
  const exit = await Promise.race([process.closed, UNKNOWN_EXIT]);
  const facts = {
    host,
    command: command.shown,
    stdout: stdout.take(),
    stderr: stderr.take(),
    ...exit,
    durationMs: Math.round(performance.now() - startMs),
  };
  if (cause !== undefined) throw describeInterruption(transport, facts, cause, report, options);
  await throwFailure(transport, facts, exit, options);
  const { host: _, ...result } = facts;
  return result;
}

/** A command that may have to be ended tells its pid, so that it can be. */
async function startCommand(
  { transport, sideband }: ExecParts,
  command: Command,
  options: ExecOptions,
): Promise<EndableProcess> {
  const { timeoutMs, signal, maxOutputBytes, onStart, onStdout, onStderr, stdin } = options;
  const reasons = [timeoutMs, signal, maxOutputBytes, onStart, onStdout, onStderr];
  const isStream = typeof stdin === "object" && !(stdin instanceof Uint8Array);
  const mayHaveToEnd = isStream || reasons.some((reason) => reason !== undefined);
  const process = mayHaveToEnd
    ? await startEndable(transport, sideband, command.reveal())
    : asEndable(await transport.exec(command.reveal()));
  onStart?.({
    signal: async (name) => void await process.processes.signal(name.replace(/^SIG/, ""), "tree"),
    processes: () => process.processes.list(),
  });
  return process;
}

function collect(
  stream: Readable,
  onChunk: ExecOptions["onStdout"],
  options: ExecOptions,
  interruption: Interrupter,
): OutputCollector {
  const { encoding = "utf8", maxOutputBytes = MAX_OUTPUT_BYTES } = options;
  return new OutputCollector(stream, {
    encoding,
    maxBytes: maxOutputBytes,
    onChunk,
    onTooMuch: () => interruption.interrupt({ kind: "output" }),
    onError: (error) => interruption.interrupt({ kind: "error", error }),
  });
}

function feed(process: RemoteProcess, input: CommandInput | undefined, to: Interrupter): void {
  const { stdin } = process;
  if (input === undefined) return void stdin.end();
  if (typeof input === "string" || input instanceof Uint8Array) return void stdin.end(input);
  const source = input instanceof Readable ? input : Readable.from(input);
  // A command that ends before it has read everything is no failure: its status says how it went.
  source.once("error", (error) => to.interrupt({ kind: "error", error }));
  source.on("data", (chunk: Buffer | string) => {
    if (stdin.writable && !stdin.write(chunk)) source.pause();
  });
  stdin.on("drain", () => source.resume());
  source.once("end", () => stdin.end());
  process.closed.then(() => {
    if (!source.readableEnded) source.destroy();
  });
}

function describeInterruption(
  transport: SshTransport,
  facts: CommandFacts,
  interruption: Interruption,
  report: EndReport | undefined,
  options: ExecOptions,
): unknown {
  const cause = causeOf(facts, interruption, options);
  // A lost connection tells of itself, and the host ends what runs behind it.
  if (report?.isConfirmed || !transport.isOpen) return cause;
  return new CommandNotEndedError(facts, report?.processes, { cause });
}

function causeOf(
  facts: CommandFacts,
  interruption: Interruption,
  { timeoutMs, maxOutputBytes = MAX_OUTPUT_BYTES }: ExecOptions,
): unknown {
  if (interruption.kind === "timeout") return new CommandTimeoutError(facts, timeoutMs as number);
  if (interruption.kind === "output") return new OutputLimitError(facts, maxOutputBytes);
  return interruption.error;
}

async function throwFailure(
  transport: SshTransport,
  facts: CommandFacts,
  { exitCode, signal }: RemoteExit,
  options: ExecOptions,
): Promise<void> {
  if (exitCode === 0) return;
  if (exitCode === null && signal === null && !transport.isOpen) throw await transport.failure();
  if (options.check !== false || (exitCode === null && signal === null)) {
    throw new CommandFailedError(facts);
  }
}

/** Ends a command for the first of several reasons. */
class Interrupter {
  readonly #process: EndableProcess;
  readonly #options: ExecOptions;
  readonly #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #onAbort = () => this.interrupt({ kind: "error", error: this.#options.signal?.reason });
  /** Resolves when an interruption has ended the command, as far as it could be. */
  readonly ended: Promise<EndReport>;
  #hasEnded: (report: EndReport) => void = () => {};
  #cause: Interruption | undefined;

  constructor(process: EndableProcess, options: ExecOptions) {
    this.#process = process;
    this.#options = options;
    this.ended = new Promise((resolve) => this.#hasEnded = resolve);
    const { timeoutMs, signal } = options;
    if (timeoutMs !== undefined) {
      this.#timer = setTimeout(() => this.interrupt({ kind: "timeout" }), timeoutMs);
    }
    signal?.addEventListener("abort", this.#onAbort, { once: true });
    if (signal?.aborted) this.#onAbort();
  }

  interrupt(cause: Interruption): void {
    if (this.#cause !== undefined) return;
    this.#cause = cause;
    const { killAfterMs = KILL_AFTER_MS } = this.#options;
    endRemotely(this.#process, killAfterMs).then(this.#hasEnded);
  }

  finish(): Interruption | undefined {
    clearTimeout(this.#timer);
    this.#options.signal?.removeEventListener("abort", this.#onAbort);
    return this.#cause;
  }
}
