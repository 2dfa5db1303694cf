import { spawn } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type ChildExit, childExit, eachLine } from "../support/child.ts";
import { EventLog } from "../support/events.ts";
import { isAlive, killAndConfirm } from "../support/processes.ts";
import { makeLockDir, makeTempDir } from "../support/temp_dir.ts";

/** What agents in a row share, and how what they leave behind is found. */
export interface Place extends AsyncDisposable {
  readonly socket: string;
  readonly lockDir: string;
  readonly runtimeDir: string;
  readonly stateDir: string;
  /** A holder's file of this place alone, so that its holders can be told from all others. */
  readonly holder: string;
  /** While this file is there, agents crash. */
  readonly gate: string;
  /** Pids of all holders that agents of this place have started and that live. */
  holders(): number[];
  /** Ends the holders and removes the folders. */
  remove(): Promise<void>;
}

/** Makes folders that agents in a row use. */
export async function makePlace(): Promise<Place> {
  const [locks, rest] = [await makeLockDir("crash"), await makeTempDir("crash")];
  const holder = join(rest.path, "holder");
  const [runtimeDir, stateDir] = [join(rest.path, "run"), join(rest.path, "state")];
  copyProgram(`dist/sshlock-holder-${process.arch}`, holder);
  for (const folder of [runtimeDir, stateDir]) mkdirSync(folder, { mode: 0o700 });
  const holders = () => processesRunning(holder);
  const remove = async () => {
    for (const pid of holders()) await killAndConfirm(pid);
    await Promise.all([locks.remove(), rest.remove()]);
  };
  return {
    socket: join(runtimeDir, "agent.sock"),
    lockDir: locks.path,
    ...{ runtimeDir, stateDir, holder },
    gate: join(rest.path, "crash-now"),
    ...{ holders, remove },
    [Symbol.asyncDispose]: remove,
  };
}

function copyProgram(from: string, to: string): void {
  const image = readFileSync(from);
  writeFileSync(to, image, { mode: 0o755 });
}

function processesRunning(program: string): number[] {
  return readdirSync("/proc").filter((entry) => /^\d+$/.test(entry)).map(Number).filter((pid) => {
    try {
      return readlinkSync(`/proc/${pid}/exe`) === program && isAlive(pid);
    } catch {
      return false;
    }
  });
}

/** A running agent that can crash. */
export interface CrashAgent {
  readonly pid: number;
  readonly exit: Promise<ChildExit>;
  /** Whether it has ended. */
  readonly isOver: boolean;
  readonly events: EventLog<Record<string, unknown>>;
}

/** Where an agent is to crash: `POINT:COUNT`, with `:stop` to be stopped instead. */
export type CrashAt = string;

/**
 * Starts an agent and waits until it listens or has ended.
 *
 * @param argv The build with crash points.
 * @param onSpawn Called before it listens, for an agent that never will.
 */
export async function startCrashAgent(
  argv: string[],
  place: Place,
  crashAt: CrashAt,
  onSpawn?: (agent: CrashAgent) => void,
): Promise<CrashAgent> {
  const [program, ...args] = argv as [string, ...string[]];
  const dirs = [
    ...["--socket", place.socket, "--lock-dir", place.lockDir],
    ...["--runtime-dir", place.runtimeDir, "--state-dir", place.stateDir],
  ];
  const child = spawn(program, [...args, "serve", ...dirs, "--holder", place.holder], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, SSHLOCK_CRASH_AT: crashAt, SSHLOCK_CRASH_WHEN: place.gate },
  });
  const events = new EventLog<Record<string, unknown>>();
  const exit = childExit(child);
  const agent = { pid: child.pid as number, exit, isOver: false, events };
  onSpawn?.(agent);
  const started = new Promise<void>((resolve) =>
    eachLine(child.stderr, (line) => {
      events.push(parse(line));
      if (line.includes(`"agent-started"`)) resolve();
    })
  );
  void exit.then(({ code, signal }) => {
    agent.isOver = true;
    events.end(`the agent has ended: ${code ?? signal}`);
  });
  await Promise.race([started, exit]);
  return agent;
}

/** From now on the agents of a place crash where they are to, or no longer. */
export function setCrashing(place: Place, isOn: boolean): void {
  if (isOn) writeFileSync(place.gate, "");
  else rmSync(place.gate, { force: true });
}

function parse(line: string): Record<string, unknown> {
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return { raw: line };
  }
}
