/**
 * The third way to the locks of a host: the shell protocol over exec, where no agent is installed.
 *
 * It is exclusive against all other ways, because the kernel is, and it can do less; `reduced` says what.
 *
 * @module
 */

import { isLockName, LOCK_NAME_RULE } from "../protocol/lock_name.ts";
import type { ClaimParams, ForeignHolder, StatusResult } from "../protocol/messages.ts";
import { WireError } from "../protocol/wire_error.ts";
import {
  type ClaimWatch,
  CONNECTION_LOST,
  type Grant,
  type LockService,
  ServiceMissingError,
} from "./lock_service.ts";
import { keepTail, readMarkedLines } from "./marked_lines.ts";
import { claimCommand, EXIT, MARK, statusCommand } from "./shell_script.ts";
import { readHolder, readStatus } from "./shell_status.ts";
import {
  ChannelRefusedError,
  type RemoteExit,
  type RemoteProcess,
  type SshTransport,
} from "./ssh_transport.ts";

/** What the shell protocol cannot do. */
const REDUCED: readonly string[] = [
  "no fencing token",
  "no shared locks",
  "no queue: a wait is flock(1)'s own, and others are not told of it",
  "no owner or purpose is recorded for whoever is refused",
  "no takeover, no parking, no watch and no break",
  "no heartbeat: after a dead link the lock is held until sshd notices",
];

/** The locks of a host through its bash and flock(1). */
export class ShellService implements LockService {
  readonly way = "shell";
  readonly reduced: readonly string[] = REDUCED;
  readonly proven: Promise<void>;
  readonly closed: Promise<string>;
  readonly #transport: SshTransport;
  readonly #lockDir: string;
  readonly #processes = new Set<RemoteProcess>();
  #prove: () => void = () => {};
  #disprove: (error: Error) => void = () => {};

  /**
   * @param transport The SSH connection.
   * @param lockDir The folder of the lock files on the host.
   */
  constructor(transport: SshTransport, lockDir: string) {
    this.#transport = transport;
    this.#lockDir = lockDir;
    this.proven = new Promise((resolve, reject) => {
      this.#prove = resolve;
      this.#disprove = reject;
    });
    this.proven.catch(() => {});
    this.closed = transport.closed.then(() => CONNECTION_LOST.detail);
  }

  get isOver(): boolean {
    return !this.#transport.isOpen;
  }

  async claim(params: ClaimParams, watch: ClaimWatch): Promise<Grant> {
    const { name, shared = false, waitMs = 0 } = params;
    // The name becomes part of a path, and here nobody else checks it.
    if (!isLockName(name)) {
      const shown = JSON.stringify(name)?.slice(0, 60);
      throw new WireError("bad-name", `Cannot claim ${shown}: a lock name is ${LOCK_NAME_RULE}`);
    }
    if (shared) {
      throw new WireError("bad-params", `Cannot share "${name}": the shell protocol is exclusive`);
    }
    if (params.takeover !== undefined) throw needsAgent(`take "${name}" over`);
    if (params.parkMs !== undefined && params.parkMs > 0) throw needsAgent(`park "${name}"`);
    const startMs = performance.now();
    const process = await this.#start(claimCommand(name, waitMs, this.#lockDir));
    const claim = new ShellClaim(process, watch);
    const giveUp = () => this.#end(process);
    watch.signal?.addEventListener("abort", giveUp, { once: true });
    try {
      const outcome = await claim.outcome;
      watch.signal?.throwIfAborted();
      if (outcome.kind === "missing") throw this.#missing(outcome.detail);
      this.#prove();
      if (outcome.kind === "refused") throw refusal(name, outcome, waitMs, startMs);
      const grantedMs = performance.now();
      return {
        holderPid: outcome.holderPid,
        shared,
        waitedMs: waitMs === 0 ? 0 : Math.round(grantedMs - startMs),
        release: async () => {
          await claim.release();
          return Math.round(performance.now() - grantedMs);
        },
      };
    } finally {
      watch.signal?.removeEventListener("abort", giveUp);
    }
  }

  watch(): Promise<never> {
    return Promise.reject(needsAgent("watch locks"));
  }

  breakLock(name: string): Promise<never> {
    return Promise.reject(needsAgent(`break "${name}"`));
  }

  processes(): Promise<never> {
    return Promise.reject(needsAgent("list processes"));
  }

  signal(): Promise<never> {
    return Promise.reject(needsAgent("signal processes"));
  }

  async status(name?: string): Promise<StatusResult> {
    const process = await this.#start(statusCommand(this.#lockDir));
    process.stdin.end();
    const lines: string[] = [];
    const stderr = keepTail(process.stderr);
    readMarkedLines(process.stdout, MARK, (line) => void lines.push(line));
    const exit = await process.closed;
    if (lines.length === 0) throw this.#missing(describeMissing(exit, stderr()));
    this.#prove();
    return readStatus(lines, name);
  }

  get silenceLeftMs(): undefined {
    return undefined;
  }

  checkSilence(): void {
    // The link has no heartbeat of its own: the keepalive of the SSH connection is all there is.
  }

  async outOfReach(): Promise<void> {
    await this.closed;
  }

  close(): void {
    for (const process of this.#processes) this.#end(process);
  }

  async #start(command: string): Promise<RemoteProcess> {
    try {
      const process = await this.#transport.exec(command);
      this.#processes.add(process);
      process.closed.then(() => this.#processes.delete(process));
      return process;
    } catch (error) {
      if (!(error instanceof ChannelRefusedError)) throw error;
      throw this.#missing(`the host refused to start a command (${error.message})`);
    }
  }

  /** End of file is what lets the lock go on the host. */
  #end(process: RemoteProcess): void {
    process.stdin.end();
    process.close();
  }

  #missing(detail: string): ServiceMissingError {
    const error = new ServiceMissingError(detail);
    this.#disprove(error);
    return error;
  }
}

type ShellOutcome =
  | { kind: "granted"; holderPid: number }
  | { kind: "refused"; exitCode: number | null; said: string; holders: ForeignHolder[] }
  | { kind: "missing"; detail: string };

/** One run of the claim script. */
class ShellClaim {
  readonly outcome: Promise<ShellOutcome>;
  readonly #process: RemoteProcess;
  readonly #ended: Promise<void>;
  #isReleased = false;

  constructor(process: RemoteProcess, watch: ClaimWatch) {
    this.#process = process;
    const stderr = keepTail(process.stderr);
    const holders: ForeignHolder[] = [];
    let hasStarted = false;
    let said = "";
    let hasEnded = () => {};
    const ended = new Promise<void>((resolve) => hasEnded = resolve);
    this.outcome = new Promise((resolve) => {
      readMarkedLines(process.stdout, MARK, (line) => {
        const [word = "", ...rest] = line.split(" ");
        hasStarted = true;
        if (word === "locked") resolve({ kind: "granted", holderPid: Number(rest[0]) });
        else if (word === "holder") holders.push(readHolder(rest));
        else if (word === "ended") hasEnded();
        else if (word !== "start") said = line;
      });
      process.closed.then((exit) => {
        const { exitCode } = exit;
        if (!hasStarted || exitCode === EXIT.missing) {
          const detail = said === "no-flock"
            ? "flock(1) is not installed"
            : describeMissing(exit, stderr());
          return resolve({ kind: "missing", detail });
        }
        resolve({ kind: "refused", exitCode, said: said || stderr(), holders });
      });
    });
    this.#ended = Promise.race([ended, process.closed.then(() => {})]);
    this.#watchLoss(ended, watch);
  }

  async release(): Promise<void> {
    this.#isReleased = true;
    this.#process.stdin.end();
    await this.#ended;
  }

  #watchLoss(ended: Promise<void>, watch: ClaimWatch): void {
    this.outcome.then(async ({ kind }) => {
      if (kind !== "granted") return;
      const cause = await Promise.race([
        ended.then(() => ({ reason: "holder-failed", detail: "its holder was ended" } as const)),
        this.#process.closed.then(() => (
          { reason: "channel-closed", detail: "the shell that held it has ended" } as const
        )),
      ]);
      if (!this.#isReleased) watch.onLoss(cause);
    });
  }
}

function refusal(
  name: string,
  { exitCode, said, holders }: Extract<ShellOutcome, { kind: "refused" }>,
  waitMs: number,
  startMs: number,
): WireError {
  if (exitCode === EXIT.contended) {
    const holder: ForeignHolder = holders[0] ?? {
      kind: "foreign",
      hiddenBecause: "the shell protocol finds holders by descriptor 999 only",
    };
    return new WireError("contended", "Another session active", {
      name,
      holder,
      holderCount: Math.max(1, holders.length),
      queueLength: 0,
      waitedMs: waitMs === 0 ? 0 : Math.round(performance.now() - startMs),
    });
  }
  if (exitCode === EXIT.noLockFile) {
    const why = said.replace(/^no-file /, "");
    return new WireError("lock-file", `Cannot create the lock file of "${name}": ${why}`, { name });
  }
  const detail = said === "no-wait"
    ? "flock(1) of this host cannot wait"
    : `the shell ended with exit code ${exitCode} (${said})`;
  return new WireError("holder-failed", `Cannot claim "${name}": ${detail}`, { name });
}

function describeMissing({ exitCode }: RemoteExit, stderr: string): string {
  if (exitCode === EXIT.missing) return "bash is not installed";
  return `the user's shell does not run commands (exit code ${exitCode}) ${stderr}`.trim();
}

function needsAgent(what: string): WireError {
  return new WireError("unknown-method", `Cannot ${what}: no agent runs on the host`);
}
