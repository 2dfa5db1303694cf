import { spawnSync } from "node:child_process";
import { agentCommand, type AgentDirs, type AgentOptions, startAgent } from "./agent_process.ts";

/** Runs what starts agents while a shell does something first in the process of each. */
export function withShell<T>(script: string, start: () => Promise<T>): Promise<T> {
  return withWrapper(["sh", "-c", `set -e; ${script}; exec "$@"`, "sh"], start);
}

/**
 * Runs what starts agents while their command sets up mounts of its own first.
 *
 * The mounts are in a private mount namespace: nobody else sees them, and they go with the agent.
 *
 * @param script Shell commands; `$LOCKS` and `$STATE` are the folders.
 */
export function withMounts<T>(
  script: string,
  dirs: AgentDirs,
  start: () => Promise<T>,
): Promise<T> {
  const shell = `set -e; LOCKS='${dirs.lockDir}' STATE='${dirs.stateDir}'; ${script}; exec "$@"`;
  return withWrapper(["unshare", "--mount", "sh", "-c", shell, "sh"], start);
}

async function withWrapper<T>(wrapper: string[], start: () => Promise<T>): Promise<T> {
  const before = process.env.SSHLOCK_TEST_AGENT;
  process.env.SSHLOCK_TEST_AGENT = JSON.stringify([...wrapper, ...agentCommand()]);
  try {
    return await start();
  } finally {
    if (before === undefined) delete process.env.SSHLOCK_TEST_AGENT;
    else process.env.SSHLOCK_TEST_AGENT = before;
  }
}

/** Starts an agent that sees its folders through mounts of its own. */
export function startAgentWithMounts(script: string, options: AgentOptions & { dirs: AgentDirs }) {
  return withMounts(script, options.dirs, () => startAgent(options));
}

/** Why no private mounts can be made here, for a test's `skip`. */
export function whyNoMounts(): string | undefined {
  const script = "mount -t tmpfs tmpfs /mnt";
  const { status, stderr } = spawnSync("unshare", ["--mount", "sh", "-c", script]);
  if (status === 0) return undefined;
  return `needs mounts in a namespace of its own: ${String(stderr ?? "no unshare").trim()}`;
}
