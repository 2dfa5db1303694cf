import { spawn } from "node:child_process";
import { Duplex } from "node:stream";
import { flock } from "../support/flock.ts";
import { connectRpc, RpcClient, RpcError } from "../support/rpc_client.ts";
import { lockPath, shellLock } from "../support/shell_lock.ts";
import type { Way } from "./history.ts";
import type { Random } from "./random.ts";

/** What a worker needs to know to claim in its way. */
export interface ClaimantConfig {
  way: Way;
  owner: string;
  lock: string;
  lockDir: string;
  /** The agent's socket, for the way "agent". */
  socket: string;
  /** The argv of ssh(1) with the bridge as its remote command, for the way "bridge". */
  bridge: string[];
}

/** A lock, by whichever way. */
export interface ClaimedLock {
  token: number | null;
  release(): Promise<void>;
}

/** Claims the lock in one way. */
export interface Claimant {
  /** One attempt; `undefined` when another has the lock. */
  claim(): Promise<ClaimedLock | undefined>;
  /** Calls back when the agent says that the lock is lost. */
  onLoss(tell: () => void): void;
}

/** Prepares a way: opens its connection, if it has one. */
export async function makeClaimant(config: ClaimantConfig, random: Random): Promise<Claimant> {
  switch (config.way) {
    case "agent":
      return await greet(await connectRpc(config.socket), config, random);
    case "bridge":
      return await greet(openBridge(config.bridge), config, random);
    case "shell":
      return { claim: () => claimByShell(config), onLoss: () => {} };
    case "flock":
      return { claim: () => claimByFlock(config, random), onLoss: () => {} };
  }
}

async function greet(
  client: RpcClient,
  config: ClaimantConfig,
  random: Random,
): Promise<Claimant> {
  await client.request("hello", { protocol: 1, client: "test", owner: config.owner });
  return {
    claim: () => claimByAgent(client, config.lock, chooseWaitMs(random)),
    onLoss: (tell) => void client.notification("lost", 86_400_000).then(tell, () => {}),
  };
}

/** The worker itself is the controller: when it dies, ssh reads the end of its input and ends the session. */
function openBridge([program, ...args]: string[]): RpcClient {
  const child = spawn(program as string, args, { stdio: ["pipe", "pipe", "inherit"] });
  return new RpcClient(Duplex.from({ readable: child.stdout, writable: child.stdin }));
}

async function claimByAgent(
  client: RpcClient,
  name: string,
  waitMs: number,
): Promise<ClaimedLock | undefined> {
  try {
    const { token } = await client.request<{ token: number }>("claim", {
      ...{ name, waitMs, purpose: "exclusion test" },
    });
    const release = async () => void await client.request("release", { name });
    return { token, release };
  } catch (error) {
    // The driver kills holders: a claim whose holder dies before it has the lock may be refused for that.
    const refusals: unknown[] = ["contended", "holder-failed"];
    if (error instanceof RpcError && refusals.includes(error.data.code)) return undefined;
    throw error;
  }
}

async function claimByShell(config: ClaimantConfig): Promise<ClaimedLock | undefined> {
  const outcome = await shellLock(config.lockDir, config.lock);
  if (outcome.kind === "no-file") throw new Error(`The shell protocol said 92: ${outcome.text}`);
  return outcome.kind === "contended" ? undefined : { token: null, release: outcome.lock.end };
}

async function claimByFlock(
  config: ClaimantConfig,
  random: Random,
): Promise<ClaimedLock | undefined> {
  const waitMs = chooseWaitMs(random);
  const outcome = await flock(lockPath(config.lockDir, config.lock), { waitMs });
  if (outcome.kind === "contended") return undefined;
  return { token: null, release: outcome.holder.end };
}

/** Half of the claims wait, so that both the refusal and the kernel's queue are in play. */
function chooseWaitMs(random: Random): number {
  return random.below(2) === 0 ? 0 : 20 + random.below(2000);
}
