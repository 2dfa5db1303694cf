import { execFile } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

import { type AgentProcess, startAgent } from "../test/support/agent_process.ts";
import { bundleProgram } from "../test/support/bundle.ts";
import { type PrivateSshd, startPrivateSshd } from "../test/support/private_sshd.ts";
import { makeLockDir, makeTempDir } from "../test/support/temp_dir.ts";
import { type Actor, startActor } from "./actor.ts";

/** Where the demo plays: a server of its own on this machine. */
export interface Stage {
  readonly sshd: PrivateSshd;
  readonly agent: AgentProcess;
  /** Starts a controller that claims as this owner. */
  controller(owner: string): Promise<Actor>;
  /** Runs a script on the host by ssh(1), without anything of ours. */
  ssh(script: string): Promise<{ exitCode: number; text: string }>;
}

/**
 * Starts an sshd and an agent with folders of their own.
 *
 * @param cleanUp Takes what is to be done at the end, last things first.
 */
export async function setStage(cleanUp: (() => Promise<unknown>)[]): Promise<Stage> {
  const dir = await makeTempDir("demo");
  cleanUp.push(dir.remove);
  const locks = await makeLockDir("demo");
  cleanUp.push(locks.remove);
  const [runtimeDir, stateDir] = [join(dir.path, "run"), join(dir.path, "state")];
  for (const folder of [runtimeDir, stateDir]) mkdirSync(folder, { mode: 0o700 });
  const socket = join(runtimeDir, "agent.sock");
  const agent = await startAgent({ dirs: { socket, lockDir: locks.path, runtimeDir, stateDir } });
  // It also ends what the shell protocol has left in the lock folder.
  cleanUp.push(agent.stop);
  // The home has no .bashrc: what this user's own one takes is not the shell protocol's cost.
  const extraConfig = [`SetEnv HOME=${dir.path}`];
  const sshd = await startPrivateSshd({ dir: dir.path, extraConfig });
  cleanUp.push(sshd.stop);

  const { host, port, username, privateKey, hostFingerprint } = sshd;
  const target = { host, port, username, privateKey, hostFingerprint, agentSocket: socket };
  const library = pathToFileURL(resolve("dist/controller/mod.js")).href;
  const program = await bundleProgram("demo/claimant.ts", dir.path);
  return {
    sshd,
    agent,
    controller: (owner) =>
      startActor(program, dir.path, { library, target, owner, lockDir: locks.path }, cleanUp),
    ssh: (script) => run("ssh", [...sshd.sshArgs, script]),
  };
}

function run(program: string, args: string[]): Promise<{ exitCode: number; text: string }> {
  return new Promise((resolve) => {
    execFile(program, args, (error, stdout, stderr) => {
      const exitCode = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
      resolve({ exitCode, text: `${stdout}${stderr}`.trim() });
    });
  });
}
