/**
 * Finds the way to a host's locks: tries one after the other and remembers which worked.
 *
 * Only "nobody is there" leads on to the next way. An agent that is there and refuses is an error:
 * going around it would be to ignore it.
 *
 * @module
 */

import type { Link } from "./agent_client.ts";
import { AgentService, type Greeting, type Reconnect } from "./agent_service.ts";
import { openBridge } from "./bridge_link.ts";
import { AgentMissingError } from "./errors.ts";
import { elapsedMs, type EventTeller } from "./events.ts";
import { type LockService, ServiceMissingError } from "./lock_service.ts";
import { ShellService } from "./shell_service.ts";
import type { SshTransport } from "./ssh_transport.ts";
import { openStreamlocal } from "./streamlocal_link.ts";
import { type Candidate, type Way, type WayAttempt, wayMemory } from "./way.ts";

/** What restricts and accompanies the search. */
export interface WaysOptions extends Greeting {
  /** The host, for messages. */
  host: string;
  /** The only way to be tried. */
  way?: Way | undefined;
  /** The agent's socket on the host, where it is not one of the usual ones. */
  socketPath?: string | undefined;
  /** The folder of the lock files, for the shell way. */
  lockDir: string;
  /** Who is told. */
  events: EventTeller;
}

/** The way of one session to the locks of its host. It is looked for at the first use. */
export class Ways {
  readonly #transport: SshTransport;
  readonly #options: WaysOptions;
  /** What is left to try; `undefined` before a search. */
  #left: Candidate[] | undefined;
  #attempts: WayAttempt[] = [];
  #current: Promise<LockService> | undefined;
  #opened: LockService | undefined;

  /**
   * @param transport The SSH connection.
   * @param options What restricts the search.
   */
  constructor(transport: SshTransport, options: WaysOptions) {
    this.#transport = transport;
    this.#options = options;
  }

  /** The service that is in use; `undefined` before the first use. */
  get service(): LockService | undefined {
    return this.#opened;
  }

  /**
   * Does something with the locks of the host, by the first way that is there.
   *
   * @param action What to do. It is called again with the next way's service where one turns out to be missing.
   * @throws {AgentMissingError} No way is there.
   * @throws {ConnectError} The connection is over.
   */
  async use<T>(action: (service: LockService) => Promise<T>): Promise<T> {
    for (;;) {
      // Whatever is opened now would be over at once, for ever.
      if (!this.#transport.isOpen) throw await this.#transport.failure();
      const current = this.#current ??= this.#openNext();
      try {
        const service = await current;
        if (!service.isOver) return await action(service);
        // It has ended since it was last used, and its end is about to be told.
        this.#leave(current);
      } catch (error) {
        if (!(error instanceof ServiceMissingError)) {
          if (!this.#opened) this.#leave(current);
          throw error;
        }
        // Several claims may have found out together: the first of them leads on.
        if (this.#current === current) this.#current = undefined;
      }
    }
  }

  /** Ends the service in use. */
  close(): void {
    this.#opened?.close();
  }

  async #openNext(): Promise<LockService> {
    const { host, way, socketPath } = this.#options;
    this.#left ??= wayMemory.candidates(this.#transport.name, { way, socketPath });
    for (let next = this.#left.shift(); next !== undefined; next = this.#left.shift()) {
      const startMs = performance.now();
      try {
        return this.#adopt(next, await this.#open(next), startMs);
      } catch (error) {
        if (!(error instanceof ServiceMissingError)) throw error;
        this.#fail(next, error, startMs);
      }
    }
    this.#opened = undefined;
    throw new AgentMissingError(host, this.#attempts);
  }

  #adopt(candidate: Candidate, service: LockService, startMs: number): LockService {
    this.#opened = service;
    service.proven.then(
      () => this.#succeed(candidate, startMs),
      (error) => {
        if (error instanceof ServiceMissingError) this.#fail(candidate, error, startMs);
      },
    );
    // A closed service is replaced at the next use, with all ways open again.
    service.closed.then(() => {
      if (this.#opened !== service) return;
      service.proven.then(() => this.#startOver(), (error) => {
        if (!(error instanceof ServiceMissingError)) this.#startOver();
      });
    });
    return service;
  }

  async #open(candidate: Candidate): Promise<LockService> {
    const { way, socketPath } = candidate;
    if (way === "shell") return new ShellService(this.#transport, this.#options.lockDir);
    if (way === "streamlocal") {
      const hasWorked = wayMemory.worked(this.#transport.name, candidate);
      const path = socketPath as string;
      const link = await openStreamlocal(this.#transport, path, hasWorked);
      const reopen = () => this.#reopen(path);
      return new AgentService(way, link, this.#options, this.#reconnect(candidate, reopen));
    }
    const link = await openBridge(this.#transport, socketPath);
    const reopen = () => openBridge(this.#transport, socketPath);
    const reconnect = this.#reconnect(candidate, reopen);
    const service = new AgentService(way, link, this.#options, reconnect);
    // The next session can go straight to the user's own agent, if sshd lets it.
    if (socketPath === undefined && this.#options.way === undefined) {
      link.onRuntimeDir((dir) =>
        void service.proven.then(
          () => wayMemory.learnUserSocket(this.#transport.name, `${dir}/sshlock/agent.sock`),
          () => {},
        )
      );
    }
    return service;
  }

  /** Where nobody listens any more, a bridge can start the agent that takes the locks over. */
  async #reopen(socketPath: string): Promise<Link> {
    try {
      return await openStreamlocal(this.#transport, socketPath, true);
    } catch (error) {
      if (!(error instanceof ServiceMissingError) || this.#options.way !== undefined) throw error;
      return await openBridge(this.#transport, this.#options.socketPath);
    }
  }

  #reconnect(candidate: Candidate, open: () => Promise<Link>): Reconnect {
    return {
      open,
      onResumed: (detail, isNew) => {
        const what = isNew
          ? "claiming again at the next agent"
          : "resumed the session with the agent";
        const message = `${what}: ${detail}`;
        this.#tell("warn", message, candidate, performance.now(), undefined);
      },
      onGiveUp: () => void this.#transport.close(),
    };
  }

  #succeed(candidate: Candidate, startMs: number): void {
    this.#left = undefined;
    this.#attempts = [];
    // What was forced says nothing of what is best.
    if (this.#options.way === undefined) wayMemory.remember(this.#transport.name, candidate);
    const message = `reached the locks by ${candidate.way}`;
    this.#tell("debug", message, candidate, startMs, undefined);
  }

  #fail(candidate: Candidate, error: Error, startMs: number): void {
    this.#attempts.push({ way: candidate.way, problem: error.message });
    const message = `cannot reach the locks by ${candidate.way}`;
    this.#tell("debug", message, candidate, startMs, error.message);
  }

  #tell(
    level: "debug" | "warn",
    message: string,
    { way, socketPath }: Candidate,
    startMs: number,
    error: string | undefined,
  ): void {
    this.#options.events.tell({
      event: "channel",
      level,
      message,
      way,
      ...(way === "streamlocal" && socketPath !== undefined ? { socketPath } : {}),
      durationMs: elapsedMs(startMs),
      ...(error === undefined ? {} : { error }),
    });
  }

  /** Whoever comes next looks for a way anew. */
  #leave(current: Promise<LockService>): void {
    if (this.#current === current) this.#startOver();
  }

  #startOver(): void {
    this.#left = undefined;
    this.#attempts = [];
    this.#current = undefined;
    this.#opened = undefined;
  }
}
