/**
 * One SSH session to a host: its locks and its commands.
 *
 * @module
 */

import type { ProcessFacts, ProcessSelection, StatusResult } from "../protocol/messages.ts";
import { WireError } from "../protocol/wire_error.ts";
import { claimLock, type ClaimOptions } from "./claim.ts";
import { AgentError, type ConnectError, LockLostError } from "./errors.ts";
import { elapsedMs, type EventTeller } from "./events.ts";
import { type ExecOptions, type ExecParts, type ExecResult, runCommand } from "./exec.ts";
import type { Lock, Unlocked } from "./lock.ts";
import { CONNECTION_LOST, type LockService } from "./lock_service.ts";
import { Command, commandOf, type CommandValue, type Secret, sh } from "./quote.ts";
import type { RemoteProcess, SshTransport } from "./ssh_transport.ts";
import { type WatchEvent, watchLocks } from "./watch.ts";
import type { Way } from "./way.ts";
import type { Ways } from "./ways.ts";

/** Time that the host has to answer `available()`, in milliseconds, unless told otherwise. */
const AVAILABLE_TIMEOUT_MS = 3_000;

/**
 * Time that an agent has to be there again when a session is closed, in milliseconds: a restart takes
 * less. The next agent that starts finds the session gone, and ends what it had.
 */
const AGENT_BACK_MS = 1_000;

/** A command: shell text, the words of one, or what {@linkcode sh} makes. */
export type CommandLike = string | readonly (string | number | bigint | Secret)[] | Command;

/** What a session is made of. */
export interface SessionParts {
  /** The host, for messages. */
  host: string;
  /** The connection. */
  transport: SshTransport;
  /** The way to the locks. */
  ways: Ways;
  /** Who is told. */
  events: EventTeller;
}

/** An open SSH session. `await using` closes it at the end of the block. */
export class Session implements AsyncDisposable {
  /** The host as it was named. */
  readonly host: string;
  /** `user@host:port`. */
  readonly name: string;
  /** Resolves when the connection is over: with the cause, or `undefined` when it was closed from here. */
  readonly closed: Promise<ConnectError | undefined>;
  readonly #parts: SessionParts;
  readonly #execParts: ExecParts;
  readonly #locks = new Set<Lock>();
  readonly #controller = new AbortController();
  readonly #openedMs = performance.now();
  #isClosed = false;

  /**
   * @param parts What it is made of.
   * @internal
   */
  constructor(parts: SessionParts) {
    this.#parts = parts;
    const { transport, host, ways } = parts;
    this.#execParts = {
      transport,
      host,
      sideband: {
        processes: (selection) => ways.use((service) => service.processes(selection)),
        signal: (signal, selection) => ways.use((service) => service.signal(signal, selection)),
      },
    };
    this.host = parts.host;
    this.name = parts.transport.name;
    this.closed = parts.transport.closed;
    parts.transport.closed.then((cause) => {
      // Before the channels tell of their own end: the first cause wins.
      for (const lock of [...this.#locks]) {
        // One that was being let go when this side closed it ends with that.
        if (cause !== undefined || lock.held) lock.lose(CONNECTION_LOST);
      }
      this.#tellEnd(cause?.message);
      if (cause !== undefined) this.#controller.abort(cause);
    });
  }

  /**
   * Aborts at the first loss: a lock of this session was lost ({@linkcode LockLostError}), or the
   * connection was ({@linkcode ConnectError}). Closing the session does not abort it.
   */
  get lossSignal(): AbortSignal {
    this.#parts.ways.service?.checkSilence();
    return this.#controller.signal;
  }

  /** The way to the locks that is in use; `undefined` before the first claim. */
  get way(): Way | undefined {
    return this.#parts.ways.service?.way;
  }

  /** What that way cannot do, each in a sentence; empty where nothing is reduced. */
  get reduced(): readonly string[] {
    return this.#parts.ways.service?.reduced ?? [];
  }

  /** Whether the connection is open, as far as this side knows. */
  get isOpen(): boolean {
    return this.#parts.transport.isOpen;
  }

  /**
   * Claims a lock of the host.
   *
   * The lock is proven by the host's kernel when the promise resolves. It ends with `release()`, with
   * its block (`await using`), with this session, or by a loss.
   *
   * @param name The lock: 1 to 100 characters of `A-Z a-z 0-9 . _ @ : + -`, the first a letter or a digit.
   * @param options Options.
   * @throws {LockContendedError} Another owner has it.
   * @throws {AgentMissingError} No way to the locks of the host is there.
   * @throws {AgentError} The agent refused for another reason; `code` says which.
   * @throws {ConnectError} The connection was lost.
   */
  claim(name: string, options?: ClaimOptions & { onContention?: "throw" }): Promise<Lock>;
  /**
   * Claims a lock of the host, and goes on without it where another owner has it.
   *
   * @param name The lock.
   * @param options Options.
   */
  claim(name: string, options: ClaimOptions): Promise<Lock | Unlocked>;
  claim(name: string, options: ClaimOptions = {}): Promise<Lock | Unlocked> {
    return claimLock(
      {
        ...this.#parts,
        onGranted: (lock) => {
          // A loss may have come with the grant.
          if (!lock.signal.aborted) this.#locks.add(lock);
        },
        onReleased: (lock) => void this.#locks.delete(lock),
        onLost: (lock, loss) => {
          this.#locks.delete(lock);
          this.#controller.abort(loss);
        },
      },
      name,
      options,
    );
  }

  /**
   * Runs a command on the host and waits for its end.
   *
   * A string is read by the user's shell as it is. Words of an array and values of a template are data:
   * each is one word, whatever is in it.
   *
   * @param command The command.
   * @param options Options.
   * @throws {CommandFailedError} It ended with another exit code than 0, or by a signal (unless `check: false`).
   * @throws {CommandTimeoutError} It took longer than `timeoutMs` and was ended.
   * @throws {OutputLimitError} It wrote more than `maxOutputBytes` and was ended.
   * @throws {ConnectError} The connection was lost.
   * @example
   * ```ts
   * const { stdout } = await session.exec`cat ${path}`;
   * ```
   */
  exec(
    command: CommandLike,
    options: ExecOptions & { encoding: "buffer" },
  ): Promise<ExecResult<Uint8Array>>;
  /** Runs a command on the host and waits for its end. */
  exec(command: CommandLike, options?: ExecOptions): Promise<ExecResult>;
  /** Runs a command on the host and waits for its end. */
  exec(strings: TemplateStringsArray, ...values: CommandValue[]): Promise<ExecResult>;
  exec(
    command: CommandLike | TemplateStringsArray,
    ...rest: unknown[]
  ): Promise<ExecResult | ExecResult<Uint8Array>> {
    const run = isTemplate(command)
      ? this.#exec(sh(command, ...rest as CommandValue[]), {})
      : this.#exec(asCommand(command), (rest[0] ?? {}) as ExecOptions);
    return run as Promise<ExecResult>;
  }

  /**
   * Starts a command on the host and hands out its streams.
   *
   * @param command The command.
   * @throws {ChannelRefusedError} The host does not start it: too many sessions are open (MaxSessions), or it forbids it.
   * @throws {ConnectError} The connection was lost.
   */
  spawn(command: CommandLike): Promise<RemoteProcess> {
    return this.#parts.transport.exec(asCommand(command).reveal());
  }

  /**
   * The locks of the host, their holders and waiters.
   *
   * @param name One lock only, free or not.
   * @throws {AgentMissingError} No way to the locks of the host is there.
   */
  status(name?: string): Promise<StatusResult> {
    return this.#ask((service) => service.status(name));
  }

  /**
   * Watches the locks of the host: first the state, then each change as it happens. Where changes may
   * have been missed, because the agent was started again or the reader was slow, the state comes anew
   * and says why (`interruption`). Each watch has a channel of its own, and costs this session nothing
   * when it is not read.
   *
   * @param name One lock only.
   * @param options `signal` ends the watch: the iteration rejects with its reason.
   * @throws {AgentMissingError} No way to the locks of the host is there.
   * @throws {AgentError} `unknown-method`: no agent runs there.
   * @throws {ConnectError} The connection is over.
   * @example
   * ```ts
   * for await (const event of session.watch("deploy", { signal })) console.log(event);
   * ```
   */
  async *watch(
    name?: string,
    options: { signal?: AbortSignal | undefined } = {},
  ): AsyncGenerator<WatchEvent, void, undefined> {
    try {
      yield* watchLocks(this.#parts, name, options.signal);
    } catch (error) {
      throw this.#asAgentError(error);
    }
  }

  /**
   * Ends the sessions that have a lock, and with them the lock: it is free once their processes are
   * gone. For root, the user who has it, and the agent's admin group.
   *
   * @param name The lock.
   * @param reason Why: it is logged, and told to those sessions.
   * @returns The owners whose sessions are being ended.
   * @throws {AgentMissingError} No way to the locks of the host is there.
   * @throws {AgentError} `not-held`: nobody has it; `denied`; `unknown-method`: no agent runs there.
   */
  break(name: string, reason: string): Promise<string[]> {
    return this.#ask((service) => service.breakLock(name, reason));
  }

  /**
   * The processes that run behind this SSH session on the host: what its commands have started and not
   * ended, daemons among it. What has detached on purpose is not listed.
   *
   * @param selection Only one of them (`pid`), or that one with what runs below it (`tree`).
   * @throws {AgentMissingError} No way to the locks of the host is there.
   * @throws {AgentError} `unknown-method`: no agent runs there, so nobody can tell.
   */
  processes(selection: ProcessSelection = {}): Promise<ProcessFacts[]> {
    return this.#ask((service) => service.processes(selection));
  }

  /**
   * Sends a signal to the processes behind this SSH session, through the agent: what SSH itself lacks.
   * No process of another session ever gets it.
   *
   * @param signal The signal, `TERM` or `SIGTERM`.
   * @param selection Only one of them (`pid`), or that one with what runs below it (`tree`).
   * @returns The pids that got it.
   * @throws {AgentMissingError} No way to the locks of the host is there.
   * @throws {AgentError} `unknown-method`: no agent runs there; `bad-params`: no such signal.
   */
  signal(signal: string, selection: ProcessSelection = {}): Promise<number[]> {
    const name = signal.startsWith("SIG") ? signal : `SIG${signal}`;
    return this.#ask((service) => service.signal(name, selection));
  }

  async #ask<T>(question: (service: LockService) => Promise<T>): Promise<T> {
    try {
      return await this.#parts.ways.use(question);
    } catch (error) {
      throw this.#asAgentError(error);
    }
  }

  /** The error of the wire as the caller is to see it. */
  #asAgentError(error: unknown): unknown {
    if (!(error instanceof WireError)) return error;
    const { code, message, facts } = error;
    return new AgentError(code, `${message} (on ${this.host})`, facts, { cause: error });
  }

  /**
   * Whether the host answers: one round trip, no process is started there. Never rejects.
   *
   * @param options How long it may take, in milliseconds; default 3,000.
   */
  async available(options: { timeoutMs?: number } = {}): Promise<boolean> {
    const { timeoutMs = AVAILABLE_TIMEOUT_MS } = options;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<false>((resolve) =>
      timer = setTimeout(() => resolve(false), timeoutMs)
    );
    try {
      return await Promise.race([this.#parts.transport.roundTrip().then(() => true), late]);
    } catch {
      return false;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Releases the session's locks and closes the connection. A second call does nothing more.
   *
   * An agent that is out of reach is waited for 1 s at most: the next one ends what the session had.
   *
   * @throws {AggregateError} Locks could not be released in order. The connection is closed all the same.
   */
  async close(): Promise<void> {
    if (this.#isClosed) return await this.#parts.transport.closed.then(() => {});
    this.#isClosed = true;
    const releases = [...this.#locks].map((lock) => lock.release());
    const results = await Promise.race([Promise.allSettled(releases), this.#giveReleasesUp()]);
    this.#parts.ways.close();
    await this.#parts.transport.close();
    const errors = results.flatMap((result) => result.status === "rejected" ? [result.reason] : []);
    if (errors.length > 0) {
      throw new AggregateError(errors, `Cannot release all locks of ${this.name}`);
    }
  }

  /** Closes the session, and does not complain where locks had been lost: `lossSignal` has told of it. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.close();
    } catch (error) {
      const { errors } = error as AggregateError;
      if (!errors?.every((cause) => cause instanceof LockLostError)) throw error;
    }
  }

  /**
   * The end of the connection ends the locks too: neither a host that does not answer is waited for, nor
   * an agent that is not there.
   */
  async #giveReleasesUp(): Promise<[]> {
    if (this.#locks.size === 0) return [];
    if (await this.available()) await this.#parts.ways.service?.outOfReach(AGENT_BACK_MS);
    return [];
  }

  async #exec(command: Command, options: ExecOptions): Promise<ExecResult<string | Uint8Array>> {
    // A process that was stopped and wakes may no longer have the lock it acts under.
    this.#parts.ways.service?.checkSilence();
    const startMs = performance.now();
    try {
      const result = await runCommand(this.#execParts, command, options);
      this.#tellCommand(command, result, startMs);
      return result;
    } catch (error) {
      this.#tellCommand(command, error as CommandEnd, startMs, error as Error);
      throw error;
    }
  }

  #tellCommand(command: Command, end: CommandEnd, startMs: number, error?: Error): void {
    this.#parts.events.tell({
      event: "command",
      level: error === undefined ? "debug" : "info",
      message: `${error === undefined ? "ran" : "failed"} ${command.shown}`,
      command: command.shown,
      exit_code: end.exitCode ?? null,
      signal: end.signal ?? null,
      durationMs: elapsedMs(startMs),
      ...(error === undefined ? {} : { error: error.name }),
    });
  }

  #tellEnd(error: string | undefined): void {
    this.#parts.events.tell({
      event: "disconnect",
      level: error === undefined ? "debug" : "warn",
      message: error ?? `closed ${this.name}`,
      durationMs: elapsedMs(this.#openedMs),
      ...(error === undefined ? {} : { error }),
    });
  }
}

interface CommandEnd {
  exitCode?: number | null;
  signal?: string | null;
}

function isTemplate(command: unknown): command is TemplateStringsArray {
  return Array.isArray(command) && "raw" in command;
}

function asCommand(command: CommandLike): Command {
  if (command instanceof Command) return command;
  return typeof command === "string" ? new Command(command) : commandOf(command);
}
