/**
 * The agent's config file: where it is, and whether it can be trusted.
 *
 * It decides who may end others' locks, so a file that anyone but root and the agent's user could
 * have written is refused.
 *
 * @module
 */

import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readFileSync,
  realpathSync,
  statSync,
} from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { type AgentConfig, configOf, ConfigValueError, DEFAULT_CONFIG } from "./config.ts";
import { ConfigTextError, parseConfigText } from "./config_text.ts";

/** The config file of the host's own agent. */
const SYSTEM_CONFIG = "/etc/sshlock/agent.json";

/** Largest file that is read, in bytes: every honest one is below 1 KiB. */
const MAX_FILE_BYTES = 64 * 1024;

/** Group and others may write. */
const OTHERS_WRITE = 0o022;

/** Only owners may rename and remove in such a folder. */
const STICKY = 0o1000;

/** Which config file an agent reads. */
export interface ConfigPlace {
  /** The path, absolute. */
  path: string;
  /** Whether someone named it: then it has to be there. */
  isNamed: boolean;
}

/** What a config file came to. */
export interface ConfigReading {
  /** The configuration, the defaults included. */
  config: AgentConfig;
  /** The file it is from; absent: there is none, and all are defaults. */
  path: string | undefined;
}

/** A config file that cannot be read or followed. */
export class ConfigError extends Error {
  override name = "ConfigError";
  /** The file. */
  readonly path: string;
  /** The line that is wrong, counted from 1; absent where it is no single one. */
  readonly line: number | undefined;

  /**
   * @param path The file.
   * @param line The line.
   * @param reason What is wrong, and what would be right.
   * @param cause What it came from.
   */
  constructor(path: string, line: number | undefined, reason: string, cause?: unknown) {
    super(
      `Cannot use config file ${path}${line === undefined ? "" : `, line ${line}`}: ${reason}`,
      {
        cause,
      },
    );
    this.path = path;
    this.line = line;
  }
}

/**
 * The config file that this command line, environment and user mean.
 *
 * @param option The value of `--config`.
 * @param env The environment.
 */
export function configPlace(option: string | undefined, env = process.env): ConfigPlace {
  // An empty variable is one that is not set, as XDG has it.
  const named = option ?? (env.SSHLOCK_CONFIG || undefined);
  if (named !== undefined) return { path: resolve(named), isNamed: true };
  if (process.getuid!() === 0) return { path: SYSTEM_CONFIG, isNamed: false };
  const folder = env.XDG_CONFIG_HOME || join(homedir(), ".config");
  return { path: resolve(folder, "sshlock", "agent.json"), isNamed: false };
}

/**
 * The configuration of the file in its place; the defaults where it has none there and nobody named one.
 *
 * @param place Which file.
 * @throws {ConfigError} It cannot be read, others could write it, or it says what cannot be followed.
 */
export function findConfig({ path, isNamed }: ConfigPlace): ConfigReading {
  try {
    return { config: readConfig(path), path };
  } catch (error) {
    const isMissing = error instanceof ConfigError && codeOf(error.cause) === "ENOENT";
    if (isMissing && !isNamed) return { config: DEFAULT_CONFIG, path: undefined };
    throw error;
  }
}

/**
 * The configuration of a file, with the defaults for what it leaves out.
 *
 * @param path The file.
 * @throws {ConfigError} It cannot be read, others could write it, or it says what cannot be followed.
 */
export function readConfig(path: string): AgentConfig {
  const text = readTrusted(path);
  try {
    return configOf(parseConfigText(text));
  } catch (error) {
    if (error instanceof ConfigTextError || error instanceof ConfigValueError) {
      throw new ConfigError(path, error.line, error.message, error);
    }
    throw error;
  }
}

/** The text; what is checked is what was opened, so nothing can be put in its place meanwhile. */
function readTrusted(path: string): string {
  let fd: number;
  try {
    // A FIFO must not keep the agent waiting.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    throw new ConfigError(path, undefined, explainOpen(cause), cause);
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new ConfigError(path, undefined, "it is no regular file");
    if (stat.size > MAX_FILE_BYTES) {
      const reason = `it has ${stat.size} bytes; at most ${MAX_FILE_BYTES} are read`;
      throw new ConfigError(path, undefined, reason);
    }
    checkOwner(path, path, stat);
    for (const folder of new Set([dirname(path), dirname(realpathSync(path))])) {
      const stat = statSync(folder);
      // Who can write to a folder can put another file there, unless it is sticky.
      const isSticky = (stat.mode & STICKY) !== 0;
      checkOwner(path, folder, { uid: stat.uid, mode: isSticky ? 0 : stat.mode });
    }
    return readFileSync(fd, "utf8");
  } finally {
    closeSync(fd);
  }
}

function checkOwner(
  file: string,
  path: string,
  { uid, mode }: { uid: number; mode: number },
): void {
  const own = process.getuid!();
  const what = path === file ? "it" : `its folder ${path}`;
  if (uid !== 0 && uid !== own) {
    const reason = `${what} belongs to uid ${uid}; it must be root's${
      own === 0 ? "" : ` or of uid ${own}`
    }: chown ${own} ${path}`;
    throw new ConfigError(file, undefined, reason);
  }
  if ((mode & OTHERS_WRITE) === 0) return;
  const bits = (mode & 0o7777).toString(8).padStart(4, "0");
  const reason = `${what} has mode ${bits}, so others than its owner may write to it: ` +
    `chmod go-w ${path}`;
  throw new ConfigError(file, undefined, reason);
}

function explainOpen(cause: unknown): string {
  const code = codeOf(cause);
  if (code === "ENOENT") return "there is no such file";
  if (code === "EACCES") return `uid ${process.getuid!()} may not read it`;
  return (cause as Error).message;
}

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code;
}
