import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { until, WaitTimeoutError } from "../support/events.ts";
import { descendants, processesWithLockIn, readArgv, signalPid } from "../support/processes.ts";
import type { Host } from "./host.ts";
import { connectLean } from "./lean_connection.ts";

/** What may still be found when all clients have ended, and for how long. */
export interface EndCheckOptions {
  host: Host;
  /** The actor's program: processes of it are leftovers. */
  actor: string;
  /** Processes that belong to nobody and must have been left alone. */
  bystanders: readonly number[];
  /** Locks and leftovers may take so long to go, in milliseconds: generous, since it proves a leak. */
  deadlineMs: number;
  /** Whether the first finding is enough. */
  stopsAtFirst?: boolean;
}

/**
 * Promise 5, when all clients have ended: no lock is held, nothing acts any more, nothing is recorded,
 * and nobody else was harmed.
 *
 * @returns What was found; nothing where all is well.
 */
export async function checkTheEnd(options: EndCheckOptions): Promise<string[]> {
  const { host, actor, bystanders, deadlineMs, stopsAtFirst = false } = options;
  // A leftover that nobody has ended may have been stopped: now it may show itself.
  const actorsLeft = () => processesOf(actor);
  const checks: [what: string, look: () => Promise<unknown[]> | unknown[]][] = [
    ["a leftover lives", actorsLeft],
    ["the kernel holds a lock", () => lockedFiles(host.dirs.lockDir)],
    ["a process has a lock file open", () => processesWithLockIn(host.dirs.lockDir)],
    ["the agent shows a lock", () => locksShown(host)],
    ["a record of the agent's is left", () => recordsOf(host)],
    ["the agent has more children than its spare", () => descendants(host.pid).slice(1)],
  ];
  const found: string[] = [];
  for (const [what, look] of checks) {
    let seen: unknown[] = [];
    await until(async () => (seen = await look()).length === 0, { deadlineMs, what })
      .catch(async (error) => {
        if (!(error instanceof WaitTimeoutError)) throw error;
        found.push(`${what} ${deadlineMs} ms after the end of all: ${describe(seen)}`);
        if (look === actorsLeft) found.push(...await trace(host, seen as number[]));
      });
    if (stopsAtFirst && found.length > 0) return found;
  }
  for (const pid of bystanders) {
    if (!signalPid(pid, "SIGCONT") || readArgv(pid).length === 0) {
      found.push(`a bystander was ended: ${pid}`);
    }
  }
  found.push(...host.complaints.map((line) => `the agent complained: ${line}`));
  return found;
}

function describe(seen: unknown[]): string {
  return seen.slice(0, 3).map((each) => {
    const pid = typeof each === "number" ? each : (each as { pid?: number }).pid;
    return pid === undefined ? JSON.stringify(each) : `${pid} ${readArgv(pid).join(" ")}`;
  }).join("; ");
}

/** Most lines of the agent's log that are told of one session. */
const MAX_TRACED = 30;

/** What the agent has now, and what it has said of the sessions that leftovers are of: one may only be late. */
async function trace(host: Host, leftovers: number[]): Promise<string[]> {
  const log = readFileSync(join(host.dir, "agent.log"), "utf8").split("\n");
  const lines = leftovers.slice(0, 2).flatMap((pid) => {
    const [, , , client, n] = readArgv(pid);
    const own = log.filter((line) => line.includes(`"${client}#${n}"`));
    const ids = new Set(own.flatMap((line) => /"session":"([^"]+)"/.exec(line)?.[1] ?? []));
    return [...ids].flatMap((id) =>
      log.filter((line) => line.includes(`"${id}"`)).slice(-MAX_TRACED)
    );
  });
  return [`the agent shows ${JSON.stringify(await locksShown(host))}`, ...lines];
}

/** The processes of a program, by a word of their command line. */
export function processesOf(program: string): number[] {
  return readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map(Number)
    .filter((pid) => pid !== process.pid && readArgv(pid).includes(program));
}

/** What `run` has left where no agent ran, the next agent that starts clears away. */
function recordsOf({ dirs, pid }: Host): string[] {
  const folder = join(dirs.runtimeDir, "locks");
  return readdirSync(folder).filter((name) => {
    // One that was begun: what a dead process has left of one, the next agent clears away, too.
    const writer = /\.json\.(\d+)\.new$/.exec(name)?.[1];
    if (writer !== undefined) return Number(writer) === pid;
    const record = JSON.parse(readFileSync(join(folder, name), "utf8")) as {
      ownerships: { agent: { pid: number } }[];
    };
    return record.ownerships.some(({ agent }) => agent.pid === pid);
  });
}

/** The lock files that the kernel has an flock(2) on, by the kernel's own list. */
function lockedFiles(lockDir: string): string[] {
  const inodes = new Map(
    readdirSync(lockDir).map((name) => [statSync(join(lockDir, name)).ino, name]),
  );
  const device = statSync(lockDir).dev;
  return readFileSync("/proc/locks", "latin1").split("\n").flatMap((line) => {
    const found = /FLOCK\s+\S+\s+\S+\s+\d+ ([0-9a-f]+):([0-9a-f]+):(\d+)/.exec(line);
    if (found === null) return [];
    const [major, minor] = [parseInt(found[1]!, 16), parseInt(found[2]!, 16)];
    const isHere = minor === ((device & 0xff) | ((device >> 12) & 0xfff00)) &&
      major === ((device >> 8) & 0xfff);
    const name = isHere ? inodes.get(Number(found[3])) : undefined;
    return name === undefined ? [] : [name];
  });
}

async function locksShown(host: Host): Promise<unknown[]> {
  const connection = await connectLean(host.dirs.socket);
  const answer = await connection?.request("status", {});
  connection?.destroy();
  return (answer?.result?.locks as unknown[] | undefined) ?? ["no answer"];
}
