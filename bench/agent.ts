import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";

import {
  agentCommand,
  type AgentDirs,
  builtHolder,
  dirArgs,
  makeAgentDirs,
} from "../test/support/agent_process.ts";
import { childExit } from "../test/support/child.ts";
import { until } from "../test/support/events.ts";

/** A running agent. */
export interface BenchAgent {
  readonly pid: number;
  readonly dirs: AgentDirs;
  /** Kills it and waits for its end; its locks stay. */
  kill(): Promise<void>;
}

/** Against hanging, in milliseconds: one that takes thousands of locks over on a busy machine takes its time. */
const START_DEADLINE_MS = 300_000;

/**
 * Starts an agent with folders of its own and waits until it accepts.
 *
 * Its log goes to a file: a pipe would have to be read by the very process that measures.
 *
 * @param dir Where the log goes.
 * @param cleanUp Takes what is to be done at the end, last things first.
 * @param signal Aborted at the end: nothing more is started then.
 * @param dirs Folders of one before it; new ones unless told.
 */
export async function startBenchAgent(
  dir: string,
  cleanUp: (() => Promise<unknown>)[],
  signal: AbortSignal,
  dirs?: AgentDirs,
): Promise<BenchAgent> {
  dirs ??= await makeDirs(cleanUp);
  signal.throwIfAborted();
  const [program, ...words] = agentCommand();
  const log = openSync(join(dir, "agent.log"), "a");
  const child = spawn(
    program as string,
    [...words, "serve", ...dirArgs(dirs), "--holder", builtHolder()],
    {
      stdio: ["ignore", "ignore", log],
      // As the unit and the bridge start it.
      env: { ...process.env, BUN_GC_TIMER_DISABLE: "1" },
    },
  );
  closeSync(log);
  const exit = childExit(child);
  cleanUp.push(() => {
    child.kill("SIGTERM");
    return exit;
  });
  await until(() => accepts(dirs.socket, child), {
    what: "an agent that accepts",
    deadlineMs: START_DEADLINE_MS,
  });
  const kill = async () => {
    child.kill("SIGKILL");
    await exit;
  };
  return { pid: child.pid as number, dirs, kill };
}

async function makeDirs(cleanUp: (() => Promise<unknown>)[]): Promise<AgentDirs> {
  const { dirs, remove } = await makeAgentDirs();
  cleanUp.push(remove);
  return dirs;
}

function accepts(path: string, child: ChildProcess): Promise<boolean> {
  if (child.exitCode !== null) throw new Error(`The agent ended with code ${child.exitCode}`);
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => resolve(true));
    socket.once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}
