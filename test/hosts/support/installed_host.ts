import assert from "node:assert/strict";
import { until } from "../../support/events.ts";
import { type BootedHost, bootHost, type HostOptions, PACKAGE } from "./booted_host.ts";

/** The agent as install.sh puts it there. */
export const AGENT = "/usr/local/bin/sshlock-agent";

/** A folder of the host that every user may write to, for what programs there tell a test. */
export const NOTES = "/var/notes";

/** Boots a host and installs the agent there; alice may use it, bob may not. */
export async function bootInstalledHost(options: HostOptions = {}): Promise<BootedHost> {
  const host = await bootHost(options);
  try {
    await host.sh(`mkdir -m 0777 ${NOTES}; ${PACKAGE}/install.sh --quiet --allow-user alice`);
    return host;
  } catch (error) {
    await host[Symbol.asyncDispose]();
    throw error;
  }
}

/** The events that the agent has logged since the host booted. */
export async function agentEvents(host: BootedHost): Promise<Record<string, unknown>[]> {
  const text = await host.sh("journalctl --unit sshlock-agent.service --output cat --no-pager");
  return text.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
}

/** How often the agent has logged an event. */
export async function countEvents(host: BootedHost, name: string): Promise<number> {
  return (await agentEvents(host)).filter(({ event }) => event === name).length;
}

/** The pid of the agent that systemd runs, there; 0 when none runs. */
export async function agentPid(host: BootedHost): Promise<number> {
  return Number(await host.sh("systemctl show --property MainPID --value sshlock-agent.service"));
}

/** Waits for another agent than the one that had this pid. */
export async function nextAgent(host: BootedHost, previous: number): Promise<number> {
  return await until(async () => {
    const pid = await agentPid(host);
    return pid !== 0 && pid !== previous && pid;
  }, { what: "the next agent", deadlineMs: 30_000, intervalMs: 20 });
}

/** The cgroup of a process of the host, as the host sees it. */
export async function cgroupOf(host: BootedHost, pid: number): Promise<string> {
  const line = /^0::(.*)$/m.exec(await host.sh(`cat /proc/${pid}/cgroup`))?.[1];
  assert.ok(line !== undefined);
  return line;
}

/** Fails unless the kernel of the host has this lock. */
export async function assertLocked(host: BootedHost, name: string): Promise<void> {
  const { code } = await host.exec(`flock --nonblock /dev/shm/session-lock-${name} true`);
  assert.equal(code, 1, `${name} is free`);
}

/** The pids of the host's processes whose command line is exactly this, there. */
export async function pidsOf(host: BootedHost, command: string): Promise<number[]> {
  const { stdout } = await host.exec(`pgrep --full --exact '${command}'`);
  return stdout.split("\n").filter((line) => line !== "").map(Number);
}
