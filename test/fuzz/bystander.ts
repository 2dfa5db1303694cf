import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import type { AgentProcess } from "../support/agent_process.ts";
import { flock } from "../support/flock.ts";
import type { RpcClient } from "../support/rpc_client.ts";

/** Longest that a bystander's ping may take: far below the 10 s after which a controller gives up. */
const MAX_PING_MS = 5_000;

/** A session that holds a lock and must notice nothing of what others do to its agent. */
export interface Bystander extends AsyncDisposable {
  readonly token: number;
  /** The longest time that a ping took so far, in milliseconds. */
  readonly slowestPingMs: number;
  /** Fails unless every ping so far was answered in time, and the kernel, asked by flock(1), still refuses its lock. */
  check(): Promise<void>;
}

/** Claims the lock `victim` and pings all the time. */
export async function startBystander(agent: AgentProcess): Promise<Bystander> {
  const client = await agent.client("bystander");
  const { token } = await client.request<{ token: number }>("claim", { name: "victim" });
  const path = `${agent.dirs.lockDir}/session-lock-victim`;
  const state = { isOver: false, slowestPingMs: 0, failure: undefined as unknown };
  const pinging = pingAllTheTime(client, state);
  return {
    token,
    get slowestPingMs() {
      return state.slowestPingMs;
    },
    check: async () => {
      await ping(client, state);
      assert.equal(state.failure, undefined);
      assert.ok(state.slowestPingMs < MAX_PING_MS, `a ping took ${state.slowestPingMs} ms`);
      assert.ok(!client.messages.all.some(({ method }) => method === "lost"));
      assert.equal((await flock(path)).kind, "contended");
    },
    [Symbol.asyncDispose]: async () => {
      state.isOver = true;
      await pinging;
      await client.close();
    },
  };
}

type State = { isOver: boolean; slowestPingMs: number; failure: unknown };

async function pingAllTheTime(client: RpcClient, state: State): Promise<void> {
  try {
    while (!state.isOver) {
      await ping(client, state);
      await delay(20);
    }
  } catch (error) {
    state.failure ??= error;
  }
}

async function ping(client: RpcClient, state: State): Promise<void> {
  const began = performance.now();
  await client.request("ping");
  state.slowestPingMs = Math.max(state.slowestPingMs, performance.now() - began);
}
