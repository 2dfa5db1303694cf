import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { eachLine } from "../test/support/child.ts";
import { EventLog, until } from "../test/support/events.ts";
import { connectRpc, type RpcClient } from "../test/support/rpc_client.ts";
import { interleave, type Times } from "./sampling.ts";
import type { World } from "./world.ts";

/** Measures how a lock that is let go comes to who waits for it. */
export async function measureHandover(
  world: World,
  rounds: number,
  signal: AbortSignal,
): Promise<Record<"flock" | "grant" | "ping", Times>> {
  const file = join(world.agent.dirs.lockDir, "handover");
  const peers = [await startPeer(world, file), await startPeer(world, file)];
  const clients = [await greet(world, "bench/1"), await greet(world, "bench/2")];
  await (peers[0] as Peer).ask("lock");
  await (clients[0] as RpcClient).request("claim", { name: "handover" });
  try {
    return await interleave(
      {
        flock: () => passFlock(peers.reverse() as [Peer, Peer]),
        grant: () => passGrant(clients.reverse() as [RpcClient, RpcClient]),
        ping: () => measurePing(clients[0] as RpcClient),
      },
      rounds,
      signal,
    );
  } finally {
    // A local session that ends with a lock takes its process's children along: here, the world.
    const releases = clients.map((client) => client.request("release", { name: "handover" }));
    await Promise.allSettled(releases);
    await Promise.all(clients.map((client) => client.close()));
  }
}

/** From just before one process lets the lock go until the other one has it. */
async function passFlock([next, holder]: [Peer, Peer]): Promise<number> {
  const locked = next.ask("lock");
  await until(() => next.waits(), { what: "a process that waits for the lock" });
  const [from, to] = [await holder.ask("unlock"), await locked];
  return Number(to - from) / 1e6;
}

/** From just before one session asks to let the lock go until the other one is told that it has it. */
async function passGrant([next, holder]: [RpcClient, RpcClient]): Promise<number> {
  const from = next.messages.all.length;
  const granted = next.request("claim", { name: "handover", waitMs: 60_000 });
  await next.messages.waitFor(({ method }) => method === "queued", { from });
  const toldMs = once(next.stream, "data").then(() => performance.now());
  const startMs = performance.now();
  const released = holder.request("release", { name: "handover" });
  const tookMs = await toldMs - startMs;
  await Promise.all([granted, released]);
  return tookMs;
}

async function measurePing(client: RpcClient): Promise<number> {
  const toldMs = once(client.stream, "data").then(() => performance.now());
  const startMs = performance.now();
  await client.request("ping");
  return await toldMs - startMs;
}

async function greet({ agent }: World, owner: string): Promise<RpcClient> {
  const client = await connectRpc(agent.dirs.socket);
  await client.request("hello", { protocol: 1, client: "bench", owner, silenceMs: 0 });
  return client;
}

/** A process that locks a file with flock(2) when it is told to. */
export interface Peer {
  readonly pid: number;
  /** Returns the time that it answers with. */
  ask(what: "lock" | "unlock"): Promise<bigint>;
  /** Whether the kernel has it in the queue of a lock. */
  waits(): boolean;
}

/**
 * Starts a process that locks a file.
 *
 * @param file The file; it is made where it is missing.
 */
export async function startPeer(world: World, file: string): Promise<Peer> {
  const child: ChildProcess = await world.start("flock_peer.ts", [file]);
  const answers = new EventLog<bigint>();
  eachLine(child.stdout as NodeJS.ReadableStream, (line) => answers.push(BigInt(line)));
  const pid = child.pid as number;
  return {
    pid,
    waits: () => waitsForLock(pid),
    ask: (what) => {
      const from = answers.all.length;
      child.stdin?.write(`${what}\n`);
      return answers.waitFor(() => true, { from, what: `the answer to ${what}` });
    },
  };
}

/** `1: -> FLOCK ADVISORY WRITE PID …` @see proc_locks(5) */
function waitsForLock(pid: number): boolean {
  return new RegExp(`-> FLOCK +ADVISORY +WRITE +${pid} `).test(
    readFileSync("/proc/locks", "latin1"),
  );
}
