/**
 * Where the agent's files lie: from options, else from the environment, else by who runs it.
 *
 * @module
 */

import { accessSync, chmodSync, constants, existsSync, lstatSync, mkdirSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import process from "node:process";

/** The places of one agent. */
export interface AgentPaths {
  /** The unix socket that clients connect to. */
  socket: string;
  /** The folder of the lock files; a tmpfs. */
  lockDir: string;
  /** Records and the run file; gone at reboot. */
  runtimeDir: string;
  /** The token counter; survives reboots. */
  stateDir: string;
  /** The holder's executable. */
  holder: string;
}

/** What the command line may say of the places. */
export interface PathOptions {
  /** `--socket` */
  socket?: string;
  /** `--lock-dir` */
  lockDir?: string;
  /** `--runtime-dir` */
  runtimeDir?: string;
  /** `--state-dir` */
  stateDir?: string;
  /** `--holder` */
  holder?: string;
}

/** The folder of the lock files in the shell protocol. */
export const LOCK_DIR = "/dev/shm";

/** The socket of the host's own agent. */
export const SYSTEM_SOCKET = "/run/sshlock/agent.sock";

/**
 * A folder of the agent's that another user could read or write, or that is no folder.
 */
export class UnsafeFolderError extends Error {
  override name = "UnsafeFolderError";
  /** The folder. */
  readonly path: string;

  /**
   * @param path The folder.
   * @param reason What is wrong with it.
   */
  constructor(path: string, reason: string) {
    super(`Cannot use folder ${path}: ${reason}`);
    this.path = path;
  }
}

/**
 * The places of the agent that this command line, environment and user mean.
 *
 * @param options What the command line says.
 * @param env The environment.
 */
export function resolvePaths(options: PathOptions, env = process.env): AgentPaths {
  const runtimeDir = options.runtimeDir ?? env.SSHLOCK_RUNTIME_DIR ?? defaultRuntimeDir(env);
  return {
    runtimeDir: resolve(runtimeDir),
    socket: resolve(options.socket ?? env.SSHLOCK_SOCKET ?? join(runtimeDir, "agent.sock")),
    lockDir: resolve(options.lockDir ?? env.SSHLOCK_LOCK_DIR ?? LOCK_DIR),
    stateDir: resolve(options.stateDir ?? env.SSHLOCK_STATE_DIR ?? defaultStateDir(env)),
    holder: resolve(options.holder ?? env.SSHLOCK_HOLDER ?? defaultHolder()),
  };
}

/**
 * The sockets that a client tries, in this order: what it was told, else the host's, else the user's.
 *
 * @param options What the command line says.
 * @param env The environment.
 */
export function clientSockets(options: PathOptions, env = process.env): string[] {
  const told = options.socket ?? env.SSHLOCK_SOCKET;
  if (told !== undefined) return [resolve(told)];
  const { socket } = resolvePaths(options, env);
  const ownDirGiven = options.runtimeDir !== undefined || env.SSHLOCK_RUNTIME_DIR !== undefined;
  return ownDirGiven || socket === SYSTEM_SOCKET ? [socket] : [SYSTEM_SOCKET, socket];
}

/**
 * Makes a folder that no other user can get into, or checks that it is one.
 *
 * @param path The folder.
 * @param mode Permissions to make it with; 0o700 or 0o750.
 * @throws {UnsafeFolderError} It is a symlink, no folder, another user's, or writable by others.
 */
export function ensurePrivateFolder(path: string, mode: number): void {
  try {
    mkdirSync(dirname(path), { recursive: true });
    mkdirSync(path, { mode });
    // mkdir(2) takes the umask off; the group's bits are wanted.
    chmodSync(path, mode);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "EEXIST") throw cause;
  }
  const stat = lstatSync(path);
  if (!stat.isDirectory()) throw new UnsafeFolderError(path, "it is no folder or a symlink");
  const uid = process.getuid!();
  if (stat.uid !== uid && stat.uid !== 0) {
    throw new UnsafeFolderError(path, `it belongs to uid ${stat.uid}, not to uid ${uid}`);
  }
  if ((stat.mode & 0o002) !== 0) {
    throw new UnsafeFolderError(path, "every user can write to it");
  }
}

function defaultRuntimeDir(env: NodeJS.ProcessEnv): string {
  const uid = process.getuid!();
  if (uid === 0) return dirname(SYSTEM_SOCKET);
  const userDir = env.XDG_RUNTIME_DIR ?? `/run/user/${uid}`;
  return isWritableFolder(userDir) ? join(userDir, "sshlock") : `/tmp/sshlock-${uid}`;
}

function defaultStateDir(env: NodeJS.ProcessEnv): string {
  if (process.getuid!() === 0) return "/var/lib/sshlock";
  return join(env.XDG_STATE_HOME ?? join(homedir(), ".local", "state"), "sshlock");
}

/** Beside the program, else where install.sh puts it. */
function defaultHolder(): string {
  // The compiled binary is its own executable; under a runtime the bundle is the program.
  const compiled = !/\/(bun|deno)[^/]*$/.test(process.execPath);
  const programDir = dirname(compiled ? process.execPath : process.argv[1] ?? ".");
  const beside = join(programDir, "sshlock-holder");
  return existsSync(beside) ? beside : join(programDir, "..", "lib", "sshlock", "sshlock-holder");
}

function isWritableFolder(path: string): boolean {
  try {
    accessSync(path, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
