import { readFileSync } from "node:fs";

import { connectRpc, type RpcClient } from "../test/support/rpc_client.ts";
import { type BenchAgent, startBenchAgent } from "./agent.ts";
import { interleave, type Times } from "./sampling.ts";
import type { World } from "./world.ts";

/** Locks that are held while others are claimed, where the limit of open files allows it. */
const LOCKS = 10_000;

/** Sessions whose memory is measured. */
const SESSIONS = 1_000;

/** Locks that one session claims at the same time. */
const CLAIMS_AT_ONCE = 50;

/** Descriptors of an agent for everything but locks, with room to spare. */
const OTHER_DESCRIPTORS = 2_000;

/** What many sessions and held locks cost. */
export interface Crowd {
  /** How many locks were held. */
  readonly locks: number;
  /** A claim of a free lock beside them, and at an agent that has none. */
  readonly times: Record<"crowded" | "empty", Times>;
  /** Private memory of the agent, in kilobytes. */
  readonly lockKb: number;
  readonly sessionKb: number;
}

/** Measures claims at the socket of an agent with many held locks, beside those at one with none. */
export async function measureCrowd(
  { dir }: World,
  rounds: number,
  cleanUp: (() => Promise<unknown>)[],
  signal: AbortSignal,
): Promise<Crowd> {
  const crowded = await startBenchAgent(dir, cleanUp, signal);
  const empty = await startBenchAgent(dir, cleanUp, signal);
  const sessions: RpcClient[] = [];
  const before = privateKb(crowded);
  while (sessions.length < SESSIONS) sessions.push(await greet(crowded));
  const withSessions = privateKb(crowded);
  const locks = Math.min(LOCKS, Math.floor((openFiles() - OTHER_DESCRIPTORS) / 2));
  const [holder] = sessions as [RpcClient];
  for (let held = 0; held < locks;) {
    signal.throwIfAborted();
    const batch = Array.from({ length: Math.min(CLAIMS_AT_ONCE, locks - held) }, () => held++);
    await Promise.all(batch.map((n) => holder.request("claim", { name: `crowd-${n}` }, 120_000)));
  }
  const withLocks = privateKb(crowded);
  const times = await interleave(
    { crowded: () => measureClaim(crowded), empty: () => measureClaim(empty) },
    rounds,
    signal,
  );
  await Promise.all(sessions.map((session) => session.destroy()));
  return {
    locks,
    times,
    sessionKb: (withSessions - before) / SESSIONS,
    lockKb: (withLocks - withSessions) / locks,
  };
}

async function measureClaim(agent: BenchAgent): Promise<number> {
  const client = await greet(agent);
  const startMs = performance.now();
  await client.request("claim", { name: "free" });
  const tookMs = performance.now() - startMs;
  await client.request("release", { name: "free" });
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

/** The hard limit: the agent raises its own to that. */
function openFiles(): number {
  const limits = readFileSync("/proc/self/limits", "latin1");
  return Number(/^Max open files +\S+ +(\d+)/m.exec(limits)?.[1] ?? 1_048_576);
}
