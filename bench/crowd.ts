import { readFileSync } from "node:fs";

import { readAllPages } from "../protocol/status_pages.ts";
import { fitToMachine } from "../test/scale/sizes.ts";
import { startSwarm, type Swarm, type SwarmEvent } from "../test/scale/swarm.ts";
import { until } from "../test/support/events.ts";
import { isAlive, signalPid } from "../test/support/processes.ts";
import { connectRpc, type RpcClient } from "../test/support/rpc_client.ts";
import { type BenchAgent, startBenchAgent } from "./agent.ts";
import { interleave, summarize, type Times } from "./sampling.ts";
import type { World } from "./world.ts";

/** What is asked for, where the limits of the machine allow it. */
const ASKED = { sessions: 1_000, locks: 10_000 };

/** How often all locks are listed. */
const LISTINGS = 10;

/** Against hanging, in milliseconds: a loaded machine takes minutes for what takes seconds. */
const DEADLINE_MS = 900_000;

/** What many sessions and held locks cost. */
export interface Crowd {
  readonly sessions: number;
  /** How many locks were held. */
  readonly locks: number;
  /** Why these are fewer than asked for. */
  readonly why: string | undefined;
  /**
   * A claim of a free lock beside them, at an agent that has none, and while all locks are listed; and
   * the listings, page by page at the agent's socket.
   */
  readonly times: Record<"crowded" | "empty" | "whileListed" | "listing", Times>;
  /** Private memory of the agent, in kilobytes. */
  readonly lockKb: number;
  readonly sessionKb: number;
  /** From the start of the next agent until it accepts, and until all sessions have resumed. */
  readonly takenOverMs: number;
  readonly resumedMs: number;
  /** From the KILL of all sessions until no lock and none of their leftovers is there. */
  readonly endedMs: number;
}

/**
 * Measures an agent with many sessions, each a process with several locks and a leftover: claims beside
 * them, listings, an agent that takes all of them over, and the end of all at once.
 */
export async function measureCrowd(
  { dir }: World,
  rounds: number,
  cleanUp: (() => Promise<unknown>)[],
  signal: AbortSignal,
): Promise<Crowd> {
  const { sessions, locks, why } = fitToMachine(ASKED);
  const crowded = await startBenchAgent(dir, cleanUp, signal);
  const empty = await startBenchAgent(dir, cleanUp, signal);
  const before = privateKb(crowded);
  const withSessions = await measureSessions(crowded, sessions);

  const swarm = startSwarm(crowded.dirs.socket, { count: sessions, locks, leftover: true });
  cleanUp.push(async () => await swarm[Symbol.asyncDispose]());
  const granted = await swarm.all("granted", DEADLINE_MS);
  signal.throwIfAborted();
  const lockKb = (privateKb(crowded) - withSessions) / locks;
  const claims = await interleave(
    { crowded: () => measureClaim(crowded), empty: () => measureClaim(empty) },
    rounds,
    signal,
  );
  const times = { ...claims, ...await measureListings(crowded, locks, signal) };

  await crowded.kill();
  const startMs = performance.now();
  const next = await startBenchAgent(dir, cleanUp, signal, crowded.dirs);
  const takenOverMs = performance.now() - startMs;
  await allResumed(swarm);
  const resumedMs = performance.now() - startMs;
  const endedMs = await measureEnd(next, granted);
  const sessionKb = (withSessions - before) / sessions;
  return { sessions, locks, why, times, sessionKb, lockKb, takenOverMs, resumedMs, endedMs };
}

/** The agent's private memory while so many sessions without a lock are there, in kilobytes. */
async function measureSessions(agent: BenchAgent, count: number): Promise<number> {
  const sessions: RpcClient[] = [];
  while (sessions.length < count) sessions.push(await greet(agent));
  const memoryKb = privateKb(agent);
  await Promise.all(sessions.map((session) => session.destroy()));
  return memoryKb;
}

/** Lists all locks again and again, while another client claims one after the other. */
async function measureListings(
  agent: BenchAgent,
  locks: number,
  signal: AbortSignal,
): Promise<Pick<Crowd["times"], "whileListed" | "listing">> {
  let isListing = true;
  const claiming = (async () => {
    const times: number[] = [];
    while (isListing) times.push(await measureClaim(agent));
    return summarize("whileListed", times);
  })();
  const { listing } = await interleave({ listing: () => list(agent, locks) }, LISTINGS, signal);
  isListing = false;
  return { listing, whileListed: await claiming };
}

async function list(agent: BenchAgent, locks: number): Promise<number> {
  const client = await connectRpc(agent.dirs.socket);
  const startMs = performance.now();
  const all = await readAllPages((params) => client.request("status", { ...params }, DEADLINE_MS));
  const tookMs = performance.now() - startMs;
  await client.close();
  if (all.locks.length < locks) {
    throw new Error(`${all.locks.length} of ${locks} locks were listed`);
  }
  return tookMs;
}

async function allResumed(swarm: Swarm): Promise<void> {
  const resumed = await swarm.all("resumed", DEADLINE_MS);
  const changed = resumed.find(({ isSame }) => isSame !== true);
  if (changed !== undefined) throw new Error(`Session ${changed.session} has lost a lock`);
}

async function measureEnd(agent: BenchAgent, sessions: SwarmEvent[]): Promise<number> {
  const client = await connectRpc(agent.dirs.socket);
  const startMs = performance.now();
  for (const { pid } of sessions) signalPid(pid, "SIGKILL");
  await until(async () => {
    const status = await client.request<{ locks: unknown[] }>("status", {}, DEADLINE_MS);
    return status.locks.length === 0;
  }, { what: "the end of all locks", deadlineMs: DEADLINE_MS, intervalMs: 20 });
  const tookMs = performance.now() - startMs;
  await client.close();
  const left = sessions.find(({ leftover }) => isAlive(leftover ?? 0));
  if (left !== undefined) throw new Error(`A leftover of session ${left.session} lives on`);
  return tookMs;
}

async function measureClaim(agent: BenchAgent): Promise<number> {
  const client = await greet(agent);
  const startMs = performance.now();
  await client.request("claim", { name: "free" }, DEADLINE_MS);
  const tookMs = performance.now() - startMs;
  await client.request("release", { name: "free" }, DEADLINE_MS);
  await client.close();
  return tookMs;
}

async function greet({ dirs }: BenchAgent): Promise<RpcClient> {
  const client = await connectRpc(dirs.socket);
  await client.request("hello", { protocol: 1, client: "bench", session: "process", silenceMs: 0 });
  return client;
}

function privateKb({ pid }: BenchAgent): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "latin1");
  return Number(/^Private_Dirty:\s+(\d+)/m.exec(rollup)?.[1]);
}
