import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

import { descendants } from "../test/support/processes.ts";
import { connectRpc } from "../test/support/rpc_client.ts";
import { startBenchAgent } from "./agent.ts";
import type { World } from "./world.ts";

/** An agent is called idle once it has had this long to settle after its start, in milliseconds. */
const SETTLE_MS = 5_000;

/** How long a process is watched for wake-ups, in milliseconds. */
const WATCH_MS = 10_000;

/** What a process costs while nothing happens. */
export interface Resident {
  /** Memory in kilobytes, as /proc/PID/smaps_rollup has it. */
  readonly rssKb: number;
  /** Memory that no other process shares and no file backs, in kilobytes. */
  readonly privateKb: number;
  /** Context switches of all its threads while it was watched. */
  readonly switches: number;
  /** For how long, in milliseconds. */
  readonly watchedMs: number;
}

/** What one held lock and what an idle agent cost. */
export interface Residents {
  readonly holder: Resident;
  /** Processes that the lock added. */
  readonly holderProcesses: number;
  readonly agent: Resident;
}

/** Watches the holder of one lock, and at the same time a fresh agent that nobody talks to. */
export async function measureResidents(
  { agent: used, dir }: World,
  cleanUp: (() => Promise<unknown>)[],
  signal: AbortSignal,
): Promise<Residents> {
  const before = descendants(used.pid).map(({ pid }) => pid);
  const client = await connectRpc(used.dirs.socket);
  await client.request("hello", { protocol: 1, client: "bench", silenceMs: 0 });
  const { holderPid } = await client.request<{ holderPid: number }>("claim", { name: "resident" });
  const idle = await startBenchAgent(dir, cleanUp, signal);
  await delay(SETTLE_MS, undefined, { signal });
  const added = descendants(used.pid).filter(({ pid }) => !before.includes(pid));
  const [holder, agent] = await Promise.all([
    watchProcess(holderPid, signal),
    watchProcess(idle.pid, signal),
  ]);
  await client.close();
  // The holder was the spare that is among the processes before; what was added is the next spare.
  return { holder, holderProcesses: added.length, agent };
}

async function watchProcess(pid: number, signal: AbortSignal): Promise<Resident> {
  const before = switchesOf(pid);
  await delay(WATCH_MS, undefined, { signal });
  const after = switchesOf(pid);
  // A thread that came or went did something; its own count is not known to the end.
  const others = [...before.keys()].filter((tid) => !after.has(tid)).length;
  let switches = others;
  for (const [tid, count] of after) switches += count - (before.get(tid) ?? 0);
  const memory = readFileSync(`/proc/${pid}/smaps_rollup`, "latin1");
  return {
    rssKb: numberIn(memory, "Rss"),
    privateKb: numberIn(memory, "Private_Dirty"),
    switches,
    watchedMs: WATCH_MS,
  };
}

/** @see proc_pid_status(5): voluntary_ctxt_switches, nonvoluntary_ctxt_switches */
function switchesOf(pid: number): Map<string, number> {
  const counts = readdirSync(`/proc/${pid}/task`).map((tid): [string, number] => {
    const status = readFileSync(`/proc/${pid}/task/${tid}/status`, "latin1");
    return [
      tid,
      numberIn(status, "voluntary_ctxt_switches") + numberIn(status, "nonvoluntary_ctxt_switches"),
    ];
  });
  return new Map(counts);
}

function numberIn(text: string, key: string): number {
  return Number(new RegExp(`^${key}:\\s+(\\d+)`, "m").exec(text)?.[1]);
}
