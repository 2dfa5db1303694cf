import { spawn } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { type ChildExit, childExit, eachLine } from "./child.ts";
import { EventLog, until } from "./events.ts";
import { killAndConfirm, processesWithLockIn, signalPid } from "./processes.ts";
import { connectRpc, type RpcClient } from "./rpc_client.ts";
import { makeLockDir, makeTempDir } from "./temp_dir.ts";

/** Where an agent keeps things; all below folders of the test's own. */
export interface AgentDirs {
  socket: string;
  lockDir: string;
  runtimeDir: string;
  stateDir: string;
}

/** What an agent is started with. */
export interface AgentOptions {
  /** Folders that outlive this agent (for a second agent on the same ones); new ones, removed by `stop`, unless told. */
  dirs?: AgentDirs;
  /** Further arguments of `serve`. */
  args?: string[];
  /** Added to the environment. */
  env?: Record<string, string>;
  /** A program with arguments that starts it in its own place: `["nsenter", "--net=…"]`. It must exec. */
  prefix?: string[];
  /** Against hanging until it accepts, in milliseconds; 60,000 unless told: Deno reads much first. */
  deadlineMs?: number;
  /** The holder's program; the built one for this machine unless told. */
  holder?: string;
}

/** A running `sshlock-agent serve` whose socket accepts. */
export interface AgentProcess extends AsyncDisposable {
  readonly dirs: AgentDirs;
  readonly pid: number;
  /** Its standard error: one JSON object a line; a line that is none becomes `{ raw: line }`. */
  readonly events: EventLog<Record<string, unknown>>;
  readonly exit: Promise<ChildExit>;
  /** Opens a connection and says hello on it. */
  client(owner: string): Promise<RpcClient>;
  /** Kills the agent alone and waits for its end; the holders stay. */
  kill(): Promise<void>;
  /** Sends TERM, waits for the end, ends the holders in its lock folder, removes folders that it made. */
  stop(): Promise<void>;
}

/** The agent's argv: SSHLOCK_TEST_AGENT (a JSON array), else the compiled binary. */
export function agentCommand(): string[] {
  const text = process.env.SSHLOCK_TEST_AGENT;
  return text === undefined ? ["dist/sshlock-agent"] : JSON.parse(text) as string[];
}

/** Why no agent can be started here, for a test's `skip`. */
export function whyNoAgent(): string | undefined {
  const file = agentCommand().filter((word) => word.startsWith("dist/")).find((f) =>
    !existsSync(f)
  );
  if (file !== undefined) return `needs ${file}: build first`;
  return existsSync(builtHolder()) ? undefined : `needs ${builtHolder()}: build first`;
}

/** The built holder for this machine. */
export function builtHolder(): string {
  const path = `dist/sshlock-holder-${process.arch}`;
  return existsSync(path) ? path : "dist/sshlock-holder";
}

/**
 * Starts an agent with folders of its own and waits until its socket accepts.
 *
 * @throws {WaitTimeoutError} It ended or did not listen in time; the message has the end of its log.
 */
export async function startAgent(options: AgentOptions = {}): Promise<AgentProcess> {
  const made = options.dirs === undefined ? await makeAgentDirs() : undefined;
  const dirs = options.dirs ?? (made as MadeDirs).dirs;
  const child = spawn(...agentSpawn(options, dirs));
  const exit = childExit(child);
  const events = new EventLog<Record<string, unknown>>();
  eachLine(child.stderr as NodeJS.ReadableStream, (line) => events.push(parse(line)));
  const pid = child.pid as number;
  const kill = async () => {
    if (child.exitCode === null && child.signalCode === null) signalPid(pid, "SIGKILL");
    await exit;
  };
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) signalPid(pid, "SIGTERM");
    // An agent that ignores TERM must not hang the whole run.
    const impatience = setTimeout(() => child.kill("SIGKILL"), 5_000);
    await exit.catch(() => {});
    clearTimeout(impatience);
    await endHolders(dirs.lockDir);
    await made?.remove();
  };
  try {
    await untilAccepting(dirs.socket, exit, events, options.deadlineMs);
  } catch (error) {
    await stop();
    throw error;
  }
  const client = (owner: string) => greet(dirs.socket, owner);
  return { dirs, pid, events, exit, client, kill, stop, [Symbol.asyncDispose]: stop };
}

/** Folders for one agent or for several in a row. */
export interface MadeDirs extends AsyncDisposable {
  dirs: AgentDirs;
  remove(): Promise<void>;
}

/** Makes the folders that {@link startAgent} takes as `dirs`. */
export async function makeAgentDirs(): Promise<MadeDirs> {
  const [locks, rest] = [await makeLockDir("agent"), await makeTempDir("agent")];
  const dirs = {
    socket: join(rest.path, "run", "agent.sock"),
    lockDir: locks.path,
    runtimeDir: join(rest.path, "run"),
    stateDir: join(rest.path, "state"),
  };
  mkdirSync(dirs.runtimeDir, { mode: 0o700 });
  mkdirSync(dirs.stateDir, { mode: 0o700 });
  const remove = async () => {
    await endHolders(locks.path);
    await Promise.all([locks.remove(), rest.remove()]);
  };
  return { dirs, remove, [Symbol.asyncDispose]: remove };
}

/** The options that name these folders, for any subcommand of the agent. */
export function dirArgs(dirs: AgentDirs): string[] {
  return [
    ...["--socket", dirs.socket, "--lock-dir", dirs.lockDir],
    ...["--runtime-dir", dirs.runtimeDir, "--state-dir", dirs.stateDir],
  ];
}

/** Ends each process that has fd 999 on a file in this folder, by pid; there may be thousands. */
export async function endHolders(lockDir: string): Promise<void> {
  const pids = processesWithLockIn(lockDir);
  for (const pid of pids) signalPid(pid, "SIGKILL");
  for (const pid of pids) await killAndConfirm(pid);
}

function agentSpawn(options: AgentOptions, dirs: AgentDirs) {
  const [program, ...args] = [...options.prefix ?? [], ...agentCommand()];
  const holder = ["--holder", options.holder ?? builtHolder()];
  return [
    program as string,
    [...args, "serve", ...dirArgs(dirs), ...holder, ...(options.args ?? [])],
    { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, ...options.env } },
  ] as [string, string[], { stdio: ["ignore", "ignore", "pipe"]; env: NodeJS.ProcessEnv }];
}

async function untilAccepting(
  socket: string,
  exit: Promise<ChildExit>,
  events: EventLog<Record<string, unknown>>,
  deadlineMs = 60_000,
): Promise<void> {
  let ended: string | undefined;
  exit.then(
    ({ code, signal }) => ended = `code ${code ?? signal}`,
    (error) => ended = String(error),
  );
  const what = "a socket that accepts";
  const outcome = await until<string | boolean>(() => ended ?? accepts(socket), {
    what,
    deadlineMs,
    intervalMs: 5,
  });
  if (outcome !== true) {
    const log = events.all.slice(-10).map((event) => `\n  ${JSON.stringify(event)}`).join("");
    throw new Error(`The agent ended before it listened on ${socket}: ${outcome}${log}`);
  }
}

/**
 * Whether an agent answers. That it accepts proves nothing: the socket of one that was killed does for
 * as long as a process that it was just starting has not executed its own program.
 */
function accepts(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const stream = connect(socket);
    stream.once("connect", () => stream.write('{"jsonrpc":"2.0","id":0,"method":"ping"}\n'));
    stream.once("data", () => resolve(true));
    // One that is stopped never answers; another may have the path by the next try.
    stream.setTimeout(500, () => stream.destroy());
    stream.on("error", () => resolve(false));
    stream.once("close", () => resolve(false));
    stream.once("data", () => stream.destroy());
  });
}

/** As a local session: else what ends it would end the SSH session that the tests were started from. */
async function greet(socket: string, owner: string): Promise<RpcClient> {
  const client = await connectRpc(socket);
  await client.request("hello", { protocol: 1, client: "test", owner, session: "process" });
  return client;
}

function parse(line: string): Record<string, unknown> {
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return { raw: line };
  }
}
