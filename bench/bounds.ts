import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";

import {
  agentCommand,
  type AgentProcess,
  dirArgs,
  startAgent,
} from "../test/support/agent_process.ts";
import { until } from "../test/support/events.ts";
import { type PrivateSshd, startPrivateSshd } from "../test/support/private_sshd.ts";
import { signalPid } from "../test/support/processes.ts";
import { connectRpc, type RpcClient } from "../test/support/rpc_client.ts";
import { type BridgedSession, openBridged } from "../test/support/ssh_session.ts";
import { makeTempDir } from "../test/support/temp_dir.ts";
import { type Peer, startPeer } from "./handover.ts";
import type { Fact } from "./report.ts";
import { interleave, type Times } from "./sampling.ts";
import type { World } from "./world.ts";

/** What guards a wait against hanging. */
const PATIENCE = { deadlineMs: 60_000 };

/** What the measurements of bounds are made with; an agent of their own, whose log can be read. */
interface Scene {
  readonly agent: AgentProcess;
  readonly sshd: PrivateSshd;
  readonly dir: string;
  /** Waits in the kernel for the lock. */
  readonly peer: Peer;
  /** Claims from the agent. */
  readonly next: RpcClient;
}

/** What is published as a bound: how long a lock stays taken, and how long a holder is missing. */
export type Bounds = Record<"sessionEnd" | "lastDeath" | "holder", Times>;

/** Published bounds in milliseconds, for the 99th percentile on a host that is not overloaded. */
const PUBLISHED_MS = { sessionEnd: 250, lastDeath: 50, holder: 50 };

/** Measures how long a lock stays taken after its session, and after the last process of it. */
export async function measureBounds(
  world: World,
  rounds: number,
  cleanUp: (() => Promise<unknown>)[],
  signal: AbortSignal,
): Promise<Bounds> {
  const scene = await makeScene(world, cleanUp);
  const { holderPid } = await scene.next.request<{ holderPid: number }>("claim", { name: "held" });
  try {
    return await interleave(
      {
        sessionEnd: () => endSession(scene),
        lastDeath: () => endLeftover(scene),
        holder: holderKiller(scene, holderPid),
      },
      rounds,
      signal,
    );
  } finally {
    // Only what is held at the end of a local session takes the children of its process along.
    await scene.next.request("release", { name: "held" });
    await scene.next.close();
  }
}

/** The bounds as facts with their limits. */
export function boundFacts(bounds: Bounds): Fact[] {
  const fact = (what: string, key: keyof Bounds): Fact => ({
    what,
    found: `${bounds[key].p50Ms.toFixed(1)}, ${bounds[key].p99Ms.toFixed(1)} ms`,
    goal: `p99 ${PUBLISHED_MS[key]} ms`,
    isMet: bounds[key].p99Ms <= PUBLISHED_MS[key],
  });
  return [
    fact("client killed to lock free: p50, p99", "sessionEnd"),
    fact("last leftover gone to grant: p50, p99", "lastDeath"),
    fact("holder killed to new one: p50, p99", "holder"),
  ];
}

async function makeScene(world: World, cleanUp: (() => Promise<unknown>)[]): Promise<Scene> {
  const dir = await makeTempDir("bench");
  cleanUp.push(dir.remove);
  const agent = await startAgent();
  cleanUp.push(agent.stop);
  const sshd = await startPrivateSshd({ dir: dir.path });
  cleanUp.push(sshd.stop);
  const next = await connectRpc(agent.dirs.socket);
  await next.request("hello", { protocol: 1, client: "bench", owner: "next", silenceMs: 0 });
  const peer = await startPeer(world, join(agent.dirs.lockDir, "session-lock-end"));
  return { agent, sshd, dir: dir.path, peer, next };
}

/** From the KILL of an SSH client, which leaves nothing behind, until another process has the lock. */
async function endSession({ agent, sshd, peer }: Scene): Promise<number> {
  const session = await openSession(agent, sshd, "", { name: "end" });
  const locked = peer.ask("lock");
  locked.catch(() => {}); // what fails first is told
  await until(() => peer.waits(), { ...PATIENCE, what: "a process that waits for the lock" });
  const killedAt = process.hrtime.bigint();
  signalPid(session.pid, "SIGKILL");
  const tookMs = Number(await locked - killedAt) / 1e6;
  await Promise.all([peer.ask("unlock"), session.exit]);
  return tookMs;
}

/** From the KILL of the last process of a session that has ended until the next claim is answered. */
async function endLeftover({ agent, sshd, dir, next }: Scene): Promise<number> {
  const prelude = `sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >'${dir}/left'`;
  const session = await openSession(agent, sshd, prelude, { name: "drain", onEnd: "drain" });
  const left = Number(readFileSync(join(dir, "left"), "utf8"));
  const from = next.messages.all.length;
  const granted = next.request("claim", { name: "drain", waitMs: 60_000 });
  granted.catch(() => {});
  await next.messages.waitFor(({ method }) => method === "queued", { from });
  await session.kill();
  await until(() => awaits(next, left), {
    ...PATIENCE,
    what: "a session that waits for its process",
  });
  const toldMs = once(next.stream, "data").then(() => performance.now());
  const killedMs = performance.now();
  signalPid(left, "SIGKILL");
  const tookMs = await toldMs - killedMs;
  await granted;
  await next.request("release", { name: "drain" });
  return tookMs;
}

/** From the KILL of a lock's holder until the agent says that there is another. */
function holderKiller({ agent: { events } }: Scene, firstPid: number): () => Promise<number> {
  let holderPid = firstPid;
  return async () => {
    const from = events.all.length;
    const killedMs = performance.now();
    signalPid(holderPid, "SIGKILL");
    const event = await events.waitFor(({ event }) => event === "holder-replaced", { from });
    const tookMs = performance.now() - killedMs;
    holderPid = event.holderPid as number;
    return tookMs;
  };
}

async function openSession(
  agent: AgentProcess,
  sshd: PrivateSshd,
  prelude: string,
  claim: Record<string, unknown>,
): Promise<BridgedSession> {
  const words = agentCommand().map((word) => word.includes("/") ? resolve(word) : word);
  const session = openBridged(sshd, prelude, [...words, "bridge", ...dirArgs(agent.dirs)]);
  await session.client.request("hello", { protocol: 1, client: "bench" });
  await session.client.request("claim", claim);
  return session;
}

interface Status {
  locks: { holders: { state?: string; awaiting?: { pid: number }[] }[] }[];
}

async function awaits(client: RpcClient, pid: number): Promise<boolean> {
  const { locks: [lock] } = await client.request<Status>("status", { name: "drain" });
  const [holder] = lock?.holders ?? [];
  const awaiting = holder?.awaiting ?? [];
  // Its sshd is waited for too, and must be gone.
  return holder?.state === "ending" && awaiting.length === 1 && awaiting[0]?.pid === pid;
}
