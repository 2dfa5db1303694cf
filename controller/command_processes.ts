/**
 * The processes of one command on the host: which of them live, and signals to them.
 *
 * The SSH protocol has a request for signals, but OpenSSH refuses it in root's sessions, and root is
 * who administers hosts. The agent can do better: it knows all that the command has started. Where
 * there is none, a second command signals the process group, which is a session of its own under
 * sshd; what has left that group (setsid(2)) does not get the signal, and nobody can list anything.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";

import type { ProcessFacts, ProcessSelection } from "../protocol/messages.ts";
import { within } from "./deadline.ts";
import type { RemoteProcess, SshTransport } from "./ssh_transport.ts";

/** Time for the pid to be told, in milliseconds; a shell that does not know `$$` never tells it. */
const PID_LIMIT_MS = 2_000;

/** Time that the agent has to answer, in milliseconds, before the command is signalled without it. */
const AGENT_LIMIT_MS = 3_000;

/** Pause before an agent that is asked too much at once is asked again, in milliseconds. */
const BUSY_MS = 20;

/** What the agent can do that SSH cannot. */
export interface Sideband {
  /** Lists processes of the session. */
  processes(selection: ProcessSelection): Promise<ProcessFacts[]>;
  /** Signals processes of the session; resolves with the pids that got it. */
  signal(signal: string, selection: ProcessSelection): Promise<number[]>;
}

/**
 * Whom a signal is for: `tree`, the command and what runs below it or in its process session, as a
 * terminal would do; `all`, also what it has started and left to itself.
 */
export type Reach = "tree" | "all";

/** The processes of a command. */
export class CommandProcesses {
  readonly #transport: SshTransport;
  readonly #sideband: Sideband;
  readonly #process: RemoteProcess;
  readonly #tellsPid: Promise<number>;
  #pid: Promise<number | undefined> | undefined;
  readonly #mark: string;
  #hasAgent = true;

  /**
   * @param parts The connection, the way to the agent, and the command with its pid and mark.
   */
  constructor(parts: {
    transport: SshTransport;
    sideband: Sideband;
    process: RemoteProcess;
    pid: Promise<number>;
    mark: string;
  }) {
    this.#transport = parts.transport;
    this.#sideband = parts.sideband;
    this.#process = parts.process;
    this.#tellsPid = parts.pid;
    this.#mark = parts.mark;
  }

  /**
   * Sends a signal.
   *
   * @param name The signal without its `SIG`, such as `TERM`.
   * @param reach Whom it is for.
   * @returns The pids that got it; `undefined` where no agent can tell.
   */
  async signal(name: string, reach: Reach): Promise<number[] | undefined> {
    const selection = await this.#select(reach);
    const signalled = selection === undefined
      ? undefined
      : await this.#ask((agent) => agent.signal(`SIG${name}`, selection));
    if (signalled === undefined) await this.#signalGroup(name);
    return signalled;
  }

  /**
   * Sends a signal to one process of it, where there is an agent.
   *
   * @param name The signal without its `SIG`.
   * @param pid The process.
   */
  async signalOne(name: string, pid: number): Promise<void> {
    await this.#ask((agent) => agent.signal(`SIG${name}`, { pid }));
  }

  /** What lives of it, wherever it has gone; `undefined` where no agent can tell. */
  async list(): Promise<ProcessFacts[] | undefined> {
    const selection = await this.#select("all");
    return selection && await this.#ask((agent) => agent.processes(selection));
  }

  async #select(reach: Reach): Promise<ProcessSelection | undefined> {
    const pid = await this.#knownPid();
    if (pid === undefined) return undefined;
    return { pid, tree: true, ...(reach === "all" ? { mark: this.#mark } : {}) };
  }

  /** The login shell may not have come to the line that tells it; that is waited for once. */
  #knownPid(): Promise<number | undefined> {
    return this.#pid ??= within(this.#tellsPid, PID_LIMIT_MS);
  }

  /** An agent that once did not answer is not asked again: each question could cost its time limit. */
  async #ask<T>(question: (agent: Sideband) => Promise<T>): Promise<T | undefined> {
    if (!this.#hasAgent) return undefined;
    const answer = await within(this.#askUntilHeard(question), AGENT_LIMIT_MS);
    this.#hasAgent = answer !== undefined;
    return answer;
  }

  async #askUntilHeard<T>(question: (agent: Sideband) => Promise<T>): Promise<T | undefined> {
    for (let isOver = false; !isOver;) {
      try {
        return await question(this.#sideband);
      } catch (error) {
        isOver = (error as { code?: unknown }).code !== "limit";
        if (!isOver) await delay(BUSY_MS);
      }
    }
    return undefined;
  }

  async #signalGroup(name: string): Promise<void> {
    try {
      await this.#killGroup(name);
    } catch {
      this.#process.signal(name);
    }
  }

  /** The pid cannot have been reused: while the channel is open, sshd has not waited for the process. */
  async #killGroup(name: string): Promise<void> {
    const pid = await this.#knownPid();
    if (pid === undefined) throw new Error("the pid is not known");
    const killer = await this.#transport.exec(`kill -s ${name} -- -${pid}`);
    killer.stdin.end();
    killer.stdout.resume();
    killer.stderr.resume();
    await killer.closed;
  }
}
