/**
 * The three ways from a controller to the locks of a host.
 *
 * @module
 */

/**
 * How a session reaches the locks of its host:
 * `streamlocal` is an SSH channel straight to the agent's socket, `bridge` is `sshlock-agent bridge`
 * over exec, `shell` is the shell protocol over exec, where no agent is installed.
 */
export type Way = "streamlocal" | "bridge" | "shell";

/** All ways, the best first. */
export const WAYS: readonly Way[] = ["streamlocal", "bridge", "shell"];

/** A way that was tried and was not there. */
export interface WayAttempt {
  /** The way. */
  readonly way: Way;
  /** What stood in the way. */
  readonly problem: string;
}

/** One thing to try: a way, and for `streamlocal` the socket. */
export interface Candidate {
  /** The way. */
  readonly way: Way;
  /** Path of the agent's socket on the host. */
  readonly socketPath?: string | undefined;
}

/** Where the agent of a host listens unless told otherwise. */
export const DEFAULT_AGENT_SOCKET = "/run/sshlock/agent.sock";

/**
 * How long a way that is not the best one is tried first, in milliseconds. The agent may only have been
 * restarting, or be installed by now: the better ways get another chance.
 */
const SECOND_BEST_MS = 60_000;

interface Known {
  worked?: Candidate | undefined;
  /** When `worked` is no longer tried first, on the clock of `performance.now()`. */
  untilMs: number;
  userSocketPath?: string | undefined;
}

/**
 * What worked, and what was learned, for each host and user. It lives as long as the process: a
 * wrong entry costs one refused channel, so nothing is worth a file.
 */
export class WayMemory {
  readonly #known = new Map<string, Known>();

  /**
   * What to try on a host, in order: what worked last time, then the rest.
   *
   * @param target `user@host:port`.
   * @param wanted What the caller restricts it to.
   */
  candidates(
    target: string,
    wanted: { way?: Way | undefined; socketPath?: string | undefined },
  ): Candidate[] {
    const known = this.#known.get(target);
    const sockets = wanted.socketPath === undefined
      ? [DEFAULT_AGENT_SOCKET, known?.userSocketPath]
      : [wanted.socketPath];
    const all: Candidate[] = [
      ...sockets.filter((path) => path !== undefined).map((socketPath) => (
        { way: "streamlocal", socketPath } as const
      )),
      { way: "bridge", socketPath: wanted.socketPath },
      { way: "shell" },
    ];
    const allowed = all.filter(({ way }) => wanted.way === undefined || way === wanted.way);
    const worked = allowed.find((candidate) => this.worked(target, candidate));
    return worked === undefined ? allowed : [worked, ...allowed.filter((c) => c !== worked)];
  }

  /**
   * Whether this is what worked last time on that host, and is still worth trying first.
   *
   * @param target `user@host:port`.
   * @param candidate What is about to be tried.
   */
  worked(target: string, candidate: Candidate): boolean {
    const known = this.#known.get(target);
    return known !== undefined && performance.now() < known.untilMs &&
      isSame(candidate, known.worked);
  }

  /**
   * Remembers what worked.
   *
   * @param target `user@host:port`.
   * @param worked What worked.
   */
  remember(target: string, worked: Candidate): void {
    const untilMs = worked.way === "streamlocal" ? Infinity : performance.now() + SECOND_BEST_MS;
    this.#known.set(target, { ...this.#known.get(target), worked, untilMs });
  }

  /**
   * Remembers where a per-user agent of that user listens. It is tried first, once: if it works it
   * saves the process of the bridge from then on.
   *
   * @param target `user@host:port`.
   * @param userSocketPath Path on the host.
   */
  learnUserSocket(target: string, userSocketPath: string): void {
    const known = this.#known.get(target);
    if (known?.userSocketPath === userSocketPath) return;
    const worked = { way: "streamlocal", socketPath: userSocketPath } as const;
    this.#known.set(target, { worked, untilMs: Infinity, userSocketPath });
  }

  /** Forgets everything. */
  clear(): void {
    this.#known.clear();
  }
}

/** What this process knows. */
export const wayMemory: WayMemory = new WayMemory();

function isSame(a: Candidate, b: Candidate | undefined): boolean {
  return a.way === b?.way && a.socketPath === b.socketPath;
}
