import { chmodSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";

import type { ConnectOptions, LogEvent, Session, Target } from "../../controller/mod.ts";
import { connect } from "../../controller/mod.ts";
import { wayMemory } from "../../controller/way.ts";
import {
  agentCommand,
  type AgentDirs,
  type AgentProcess,
  builtHolder,
  startAgent,
} from "../support/agent_process.ts";
import {
  type PrivateSshd,
  type PrivateSshdOptions,
  startPrivateSshd,
} from "../support/private_sshd.ts";
import { killAndConfirm, readArgv } from "../support/processes.ts";
import { makeLockDir, makeTempDir } from "../support/temp_dir.ts";

/** What a host for the controller has. */
export interface HostOptions extends Partial<PrivateSshdOptions> {
  /** `false`: no agent runs and none is installed. */
  agent?: boolean;
  /** Folders that outlive the agent. */
  dirs?: AgentDirs;
  /** Further arguments of its `serve`. */
  agentArgs?: string[];
}

/** A private sshd, an agent that it can reach, and folders of their own. */
export interface Host extends AsyncDisposable {
  sshd: PrivateSshd;
  /** Absent where the host has none. */
  agent: AgentProcess | undefined;
  lockDir: string;
  /** Whom to connect to, with all that it takes. */
  target: Target;
  /** The events of all sessions, oldest first. */
  events: LogEvent[];
  /** Connects; the shell way uses this host's lock folder. */
  connect(options?: ConnectOptions): Promise<Session>;
}

/** Starts a host. What was learned of earlier hosts is forgotten, since ports are used again. */
export async function startHost(options: HostOptions = {}): Promise<Host> {
  wayMemory.clear();
  const dir = await makeTempDir();
  const locks = await makeLockDir();
  const agent = options.agent === false ? undefined : await startAgent({
    ...(options.dirs === undefined ? {} : { dirs: options.dirs }),
    args: options.agentArgs ?? [],
  });
  const bin = join(dir.path, "bin");
  mkdirSync(bin);
  chmodSync(dir.path, 0o755);
  if (agent !== undefined) installAgent(bin, agent.dirs);
  const sshd = await startPrivateSshd({
    ...options,
    dir: dir.path,
    extraConfig: [`SetEnv PATH=/usr/bin:/bin:${bin}`, ...(options.extraConfig ?? [])],
  });
  const events: LogEvent[] = [];
  const target: Target = {
    host: sshd.host,
    port: sshd.port,
    username: sshd.username,
    privateKey: sshd.privateKey,
    hostFingerprint: sshd.hostFingerprint,
    agentSocket: agent?.dirs.socket ?? join(dir.path, "no-agent.sock"),
  };
  const lockDir = agent?.dirs.lockDir ?? locks.path;
  return {
    sshd,
    agent,
    lockDir,
    target,
    events,
    connect: (more) => connect(target, { log: (event) => events.push(event), lockDir, ...more }),
    [Symbol.asyncDispose]: async () => {
      await sshd.stop();
      if (agent !== undefined) await endStartedAgents(agent);
      await agent?.stop();
      await Promise.all([dir.remove(), locks.remove()]);
    },
  };
}

/** Puts the agent under test into a folder that the sessions have in their PATH. */
function installAgent(bin: string, dirs: AgentDirs): void {
  const words = agentCommand().map((word) => word.includes("/") ? resolve(word) : word);
  const quoted = words.map((word) => `'${word}'`).join(" ");
  // An agent that a bridge starts keeps to the same folders.
  const variables = [
    `SSHLOCK_HOLDER='${resolve(builtHolder())}'`,
    `SSHLOCK_LOCK_DIR='${dirs.lockDir}'`,
    `SSHLOCK_RUNTIME_DIR='${dirs.runtimeDir}'`,
    `SSHLOCK_STATE_DIR='${dirs.stateDir}'`,
  ];
  const script = `#!/bin/sh\n${variables.join(" ")} exec ${quoted} "$@"\n`;
  writeFileSync(join(bin, "sshlock-agent"), script, { mode: 0o755 });
}

/** Ends the agents that a bridge has started at this one's socket, each by pid. */
async function endStartedAgents({ pid: own, dirs }: AgentProcess): Promise<void> {
  for (const pid of readdirSync("/proc").map(Number).filter((pid) => pid > 1 && pid !== own)) {
    const words = readArgv(pid);
    if (words.includes("serve") && words.includes(dirs.socket)) await killAndConfirm(pid);
  }
}
