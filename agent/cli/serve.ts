/**
 * `serve`: the resident agent.
 *
 * @module
 */

import process from "node:process";
import { WireError } from "../../protocol/wire_error.ts";
import { configPlace, findConfig } from "../config_file.ts";
import { loadLibc } from "../libc.ts";
import { createLog } from "../log.ts";
import { type PathOptions, resolvePaths, UnsafeFolderError } from "../paths.ts";
import { AlreadyRunningError } from "../run_file.ts";
import { SOCKET_GROUP, startServer } from "../server.ts";
import { groupId } from "../users.ts";
import { parseDuration } from "./durations.ts";
import { CommandError, EXIT } from "./exit_codes.ts";

/** Time after which a start has settled, in milliseconds. */
const SETTLED_MS = 500;

/** Options of `serve`. */
export interface ServeOptions {
  /** Group that may use the agent. */
  group: string | undefined;
  /** A duration after which an agent without connections ends. */
  idleExit: string | undefined;
  /** The config file. */
  config: string | undefined;
  /** Whether to write no events. */
  quiet: boolean;
}

/**
 * Serves until SIGTERM or SIGINT, or until it has been idle for as long as it may be.
 *
 * @param options Where its files lie.
 * @param serve How it serves.
 * @returns The exit code.
 * @throws {CommandError} It cannot start.
 */
export async function runServe(options: PathOptions, serve: ServeOptions): Promise<number> {
  const { idleExit } = serve;
  const idleExitMs = idleExit === undefined ? undefined : parseDuration(idleExit, "--idle-exit");
  const gid = resolveGroup(serve.group);
  const { config, path: configPath } = findConfig(configPlace(serve.config));
  const log = createLog(serve.quiet ? "quiet" : "normal");
  // The terminal or session that started it may go, even while it starts; the agent stays.
  process.on("SIGHUP", () => log("signal-ignored", { signal: "SIGHUP" }));
  await loadLibc();
  const paths = resolvePaths(options);
  const server = await startServer({ paths, log, config, configPath, gid, idleExitMs })
    .catch((error) => {
      throw explainStart(error);
    });
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => server.stop(`the agent was ended by ${signal}`));
  }
  setTimeout(collectGarbage, SETTLED_MS).unref();
  await server.ended;
  return EXIT.ok;
}

/** What starting has left behind would stay until the first lock: an agent may be idle for years. */
function collectGarbage(): void {
  (globalThis as { Bun?: { gc(force: boolean): void } }).Bun?.gc(true);
}

/** Only root can give files to a group it is not in, so only the host's agent has one by default. */
function resolveGroup(asked: string | undefined): number | undefined {
  if (asked === undefined) return process.getuid!() === 0 ? groupId(SOCKET_GROUP) : undefined;
  const gid = groupId(asked);
  if (gid !== undefined) return gid;
  throw new CommandError(`Cannot serve group "${asked}": this host has no such group`, {
    hint: `groupadd --system ${asked}`,
  });
}

function explainStart(error: Error): Error {
  if (error instanceof AlreadyRunningError) {
    return new CommandError(error.message, {
      hint: "sshlock-agent status asks it; another --runtime-dir makes a second one",
      cause: error,
    });
  }
  if (error instanceof WireError || error instanceof UnsafeFolderError) {
    return new CommandError(`Cannot start the agent: ${error.message}`, {
      hint: "sshlock-agent doctor looks closer",
      cause: error,
      exitCode: error instanceof WireError && error.code === "lock-file"
        ? EXIT.lockFile
        : undefined,
    });
  }
  return error;
}
