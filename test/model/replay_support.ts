import { readFileSync } from "node:fs";
import { buildAgent, type Patch } from "../support/agent_build.ts";
import {
  agentCommand,
  type AgentDirs,
  type AgentOptions,
  type AgentProcess,
  startAgent,
} from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { isAlive } from "../support/processes.ts";
import { lockPath, shellLock } from "../support/shell_lock.ts";

/** The lock of all replays. */
export const NAME = "deploy";

/** Long enough for any machine; it never passes where the promise is kept. */
export const LONG_MS = 60_000;

/**
 * A claim of the test itself. Its clients are one process: a clean-up would take all that the test has
 * started for leftovers.
 */
export const CLAIM = { name: NAME, onEnd: "leave" };

/** An agent as the product is, or with a defence taken out. */
export interface Flavour {
  argv: string[];
  start(options?: AgentOptions): Promise<AgentProcess>;
}

/** The agent that is tested, or one that is built with changes of its source. */
export async function flavour(name: string, patches: readonly Patch[]): Promise<Flavour> {
  return flavourOf(patches.length === 0 ? agentCommand() : await buildAgent({ name, patches }));
}

function flavourOf(argv: string[]): Flavour {
  const start = async (options?: AgentOptions) => {
    const before = process.env.SSHLOCK_TEST_AGENT;
    process.env.SSHLOCK_TEST_AGENT = JSON.stringify(argv);
    try {
      const agent = await startAgent(options);
      // A holder that a killed agent was just starting has its socket, and accepts, until it executes.
      await agent.events.waitFor(({ event }) => event === "agent-started");
      return agent;
    } finally {
      if (before === undefined) delete process.env.SSHLOCK_TEST_AGENT;
      else process.env.SSHLOCK_TEST_AGENT = before;
    }
  };
  return { argv, start };
}

/** Whether the shell protocol gets the lock now; if so it gives it back. */
export async function isFreeForShell({ lockDir }: AgentDirs): Promise<boolean> {
  const outcome = await shellLock(lockDir, NAME);
  if (outcome.kind === "locked") await outcome.lock.end();
  return outcome.kind === "locked";
}

/**
 * Whether the lock becomes free for flock(1), which waits for it in the kernel's queue.
 *
 * @param waitMs For how long, where it never should; long, unless told.
 */
export async function becomesFree({ lockDir }: AgentDirs, waitMs = LONG_MS): Promise<boolean> {
  const outcome = await flock(lockPath(lockDir, NAME), { waitMs });
  if (outcome.kind === "held") await outcome.holder.end();
  return outcome.kind === "held";
}

/** Waits until the kernel has given this process's descriptor 999 the lock. */
export async function untilLocked(pid: number): Promise<void> {
  const isLocked = () => {
    if (!isAlive(pid)) throw new Error(`Process ${pid} has ended`);
    return /^lock:.*FLOCK/m.test(readFileSync(`/proc/${pid}/fdinfo/999`, "latin1"));
  };
  await until(isLocked, { what: `the lock of ${pid}`, deadlineMs: LONG_MS });
}
