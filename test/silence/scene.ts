import { type ChildProcess, spawn } from "node:child_process";
import { chmodSync } from "node:fs";
import { join } from "node:path";
import { type AgentProcess, startAgent } from "../support/agent_process.ts";
import { type ChildExit, childExit, eachLine } from "../support/child.ts";
import { EventLog } from "../support/events.ts";
import { type PrivateSshd, startPrivateSshd } from "../support/private_sshd.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import type { Link } from "./link.ts";

/** Switches to the limits that sshlock has by default: a run then takes 15 s instead of 3. */
const USES_DEFAULTS = process.env["SSHLOCK_SILENCE_DEFAULTS"] === "1";

/** What `connect()` gets: a silence limit that a loaded machine keeps the order of, and is quick. */
export const CONNECT_OPTIONS = USES_DEFAULTS ? {} : { silenceMs: 3_000 };

/** The silence limit, for people. */
export const SILENCE_MS = CONNECT_OPTIONS.silenceMs ?? 15_000;

/** What guards a wait against hanging; it decides nothing. */
export const PATIENCE = { deadlineMs: 240_000 };

/** What a controller has said. */
export interface Said {
  event: "claimed" | "aborted" | "acted";
  /** On CLOCK_MONOTONIC. */
  atMs: number;
  left: number[];
  held: boolean;
  reason: string;
  message: string;
  errors: (string | null)[];
}

/** A controller process that has the lock "x". */
export interface Controller {
  readonly pid: number;
  readonly said: EventLog<Said>;
  readonly exit: Promise<ChildExit>;
  /** Processes that it left running on the host: one detached, one that ignores TERM. */
  readonly left: number[];
  /** Tells it to try what it may no longer do. */
  act(): void;
}

/** A host with sshd and agent, and a controller that has a lock on it. */
export interface Scene extends AsyncDisposable {
  readonly agent: AgentProcess;
  readonly sshd: PrivateSshd;
  readonly controller: Controller;
  /** The processes of the controller's SSH session on the host. */
  readonly sessionPids: number[];
  /** A file that the controller makes when it can act on the host. */
  readonly traceFile: string;
}

/** Milliseconds on CLOCK_MONOTONIC. */
export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/**
 * Starts sshd, agent and a controller that has the lock "x".
 *
 * @param link Puts sshd and agent at one end, the controller at the other; without it all are here.
 */
export async function playScene(link?: Link): Promise<Scene> {
  const dir = await makeTempDir("silence");
  chmodSync(dir.path, 0o755);
  const prefix = link?.onHost ?? [];
  const agent = await startAgent({ prefix, ...PATIENCE });
  const address = link === undefined ? {} : { address: link.hostAddress };
  const sshd = await startPrivateSshd({ dir: dir.path, prefix, ...address });
  const traceFile = join(dir.path, "acted");
  const [child, exit] = startController(agent, sshd, traceFile, link?.onController ?? []);
  const said = new EventLog<Said>();
  eachLine(child.stdout as NodeJS.ReadableStream, (line) => said.push(JSON.parse(line)));
  exit.then(() => said.end("the controller has ended"));
  const stop = async () => {
    child.kill("SIGKILL");
    await exit;
    await sshd.stop();
    await agent.stop();
    await dir.remove();
  };
  try {
    const { left } = await said.waitFor(({ event }) => event === "claimed", PATIENCE);
    return {
      agent,
      sshd,
      controller: {
        pid: child.pid as number,
        said,
        exit,
        left,
        act: () => void child.stdin?.write("act\n"),
      },
      sessionPids: sshd.sessions().map(({ pid }) => pid),
      traceFile,
      [Symbol.asyncDispose]: stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function startController(
  agent: AgentProcess,
  sshd: PrivateSshd,
  traceFile: string,
  prefix: string[],
): [ChildProcess, Promise<ChildExit>] {
  const order = {
    target: {
      host: sshd.host,
      port: sshd.port,
      username: sshd.username,
      privateKey: sshd.privateKey,
      hostFingerprint: sshd.hostFingerprint,
      agentSocket: agent.dirs.socket,
    },
    options: CONNECT_OPTIONS,
    name: "x",
    claim: { graceMs: 200 },
    leave: `setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!
      sh -c 'trap "" TERM; while :; do sleep 1; done' </dev/null >/dev/null 2>&1 & echo $!`,
    act: ["touch", traceFile],
  };
  const node = [process.execPath, "test/fixtures/controller.mjs", JSON.stringify(order)];
  const [program, ...args] = [...prefix, ...node];
  const child = spawn(program as string, args, { stdio: ["pipe", "pipe", "inherit"] });
  child.stdin.on("error", () => {}); // it may have ended
  return [child, childExit(child)];
}
