import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";

import type { ConnectOptions, LogEvent, Session, Target } from "../../controller/mod.ts";
import { connect } from "../../controller/mod.ts";
import { wayMemory } from "../../controller/way.ts";
import {
  agentCommand,
  type AgentProcess,
  builtHolder,
  startAgent,
} from "../support/agent_process.ts";
import {
  type PrivateSshd,
  type PrivateSshdOptions,
  startPrivateSshd,
} from "../support/private_sshd.ts";
import { makeLockDir, makeTempDir } from "../support/temp_dir.ts";

/** What a host for the controller has. */
export interface HostOptions extends Partial<PrivateSshdOptions> {
  /** `false`: no agent runs and none is installed. */
  agent?: boolean;
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
  const agent = options.agent === false ? undefined : await startAgent();
  const bin = join(dir.path, "bin");
  mkdirSync(bin);
  chmodSync(dir.path, 0o755);
  if (agent !== undefined) installAgent(bin);
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
      await agent?.stop();
      await Promise.all([dir.remove(), locks.remove()]);
    },
  };
}

/** Puts the agent under test into a folder that the sessions have in their PATH. */
function installAgent(bin: string): void {
  const words = agentCommand().map((word) => word.includes("/") ? resolve(word) : word);
  const quoted = words.map((word) => `'${word}'`).join(" ");
  const script = `#!/bin/sh\nSSHLOCK_HOLDER='${resolve(builtHolder())}' exec ${quoted} "$@"\n`;
  writeFileSync(join(bin, "sshlock-agent"), script, { mode: 0o755 });
}
