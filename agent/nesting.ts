/**
 * The locks that a command runs under, as its environment carries them to a `run` inside it.
 *
 * `SSHLOCK_NAME`, `SSHLOCK_TOKEN` and `SSHLOCK_OWNER` tell of the innermost lock. `SSHLOCK_LOCKS` has
 * one word for each lock, `NAME=TOKEN=OWNER` (the owner percent-encoded), with `=PID.START` behind it
 * where a `run` took the lock without an agent. Whoever runs a process writes its environment, so
 * all of it is a claim's wish, and none of it a proof.
 *
 * @module
 */

import { isLockName } from "../protocol/lock_name.ts";
import { SESSION_VARIABLE } from "./leftovers.ts";
import type { ProcessId } from "./proc.ts";

/** The innermost lock's variables; `sshlock run` sets these three alone. */
const NAME_VARIABLE = "SSHLOCK_NAME";
const TOKEN_VARIABLE = "SSHLOCK_TOKEN";
const OWNER_VARIABLE = "SSHLOCK_OWNER";

/** All locks' words. */
const LOCKS_VARIABLE = "SSHLOCK_LOCKS";

/** The variables that tie a process to the locks it runs under. */
export const NESTING_VARIABLES: readonly string[] = [
  NAME_VARIABLE,
  TOKEN_VARIABLE,
  OWNER_VARIABLE,
  LOCKS_VARIABLE,
  SESSION_VARIABLE,
];

/** A lock that this process is said to run under. */
export interface OuterLock {
  /** The lock. */
  name: string;
  /** The token of the ownership; absent where it was taken without an agent over SSH. */
  token: number | undefined;
  /** The identity that it is held under. */
  owner: string | undefined;
  /** The `run` that has it without an agent. */
  run: ProcessId | undefined;
}

/** What a command is told of the lock that it is started under. */
export interface InnerLock {
  /** The lock. */
  name: string;
  /** The token. */
  token: number;
  /** The identity that it is held under. */
  owner: string;
  /** Id of the session that has it: the mark by which its processes are found. */
  session: string;
  /** The `run` that has it without an agent. */
  run: ProcessId | undefined;
}

/**
 * The outer lock of that name, if this process is said to run under it.
 *
 * @param name The lock.
 * @param env The environment.
 */
export function outerLock(name: string, env: NodeJS.ProcessEnv): OuterLock | undefined {
  const listed = wordsOf(env).map(readWord).findLast((outer) => outer?.name === name);
  if (env[NAME_VARIABLE] !== name) return listed;
  const token = readNumber(env[TOKEN_VARIABLE]);
  // `sshlock run` knows the three variables only: where they differ from the list they are newer.
  if (listed !== undefined && listed.token === token) return listed;
  return { name, token, owner: env[OWNER_VARIABLE], run: undefined };
}

/**
 * The environment of a command that is started under a lock, inside what this process runs under.
 *
 * @param lock The lock.
 * @param env The environment of this process.
 */
export function environmentUnder(lock: InnerLock, env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const outer = env[NAME_VARIABLE] === undefined ? undefined : outerLock(env[NAME_VARIABLE], env);
  const words = wordsOf(env);
  if (outer !== undefined && !words.includes(writeWord(outer))) words.push(writeWord(outer));
  const others = words.filter((word) => readWord(word)?.name !== lock.name);
  const sessions = env[SESSION_VARIABLE]?.split(":") ?? [];
  return {
    ...env,
    [NAME_VARIABLE]: lock.name,
    [TOKEN_VARIABLE]: String(lock.token),
    [OWNER_VARIABLE]: lock.owner,
    [LOCKS_VARIABLE]: [...others, writeWord(lock)].join(" "),
    [SESSION_VARIABLE]: [...sessions, lock.session].join(":"),
  };
}

/**
 * The environment for a process that is nobody's command: it stays when the locks end.
 *
 * @param env The environment of this process.
 */
export function environmentOutside(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const isOfSession = (name: string) => name.startsWith("SSH_") || NESTING_VARIABLES.includes(name);
  return Object.fromEntries(Object.entries(env).filter(([name]) => !isOfSession(name)));
}

function wordsOf(env: NodeJS.ProcessEnv): string[] {
  return env[LOCKS_VARIABLE]?.split(" ").filter((word) => word !== "") ?? [];
}

function writeWord({ name, token, owner, run }: OuterLock): string {
  const fields = [name, `${token ?? ""}`, encodeURIComponent(owner ?? "")];
  return [...fields, ...(run === undefined ? [] : [`${run.pid}.${run.startTime}`])].join("=");
}

function readWord(word: string): OuterLock | undefined {
  const [name, token, owner, run] = word.split("=");
  if (!isLockName(name)) return undefined;
  const [pid, startTime] = run?.split(".").map(readNumber) ?? [];
  const hasRun = pid !== undefined && startTime !== undefined;
  return {
    name,
    token: readNumber(token),
    owner: decode(owner),
    run: hasRun ? { pid, startTime } : undefined,
  };
}

function readNumber(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

function decode(text: string | undefined): string | undefined {
  try {
    return text === undefined || text === "" ? undefined : decodeURIComponent(text);
  } catch {
    return undefined;
  }
}
