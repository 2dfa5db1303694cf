import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";

import { findBun } from "../build/tools.ts";
import { EventTeller } from "../controller/events.ts";
import { Session } from "../controller/session.ts";
import { KEEPALIVE_MS, SshTransport } from "../controller/ssh_transport.ts";
import { Ways } from "../controller/ways.ts";
import { bundleProgram } from "../test/support/bundle.ts";
import { childExit } from "../test/support/child.ts";
import { startPrivateSshd } from "../test/support/private_sshd.ts";
import { makeTempDir } from "../test/support/temp_dir.ts";
import { type BenchAgent, startBenchAgent } from "./agent.ts";

/** All that the measurements need, on this machine alone. */
export interface World {
  /** A running agent with folders of its own. */
  readonly agent: BenchAgent;
  /** One SSH connection to a private sshd, which all measurements over SSH use. */
  readonly transport: SshTransport;
  /** The socket of a server that says back what it hears. */
  readonly echoSocket: string;
  /** A folder for files. */
  readonly dir: string;
  /** A session on the open connection that has said nothing to the agent yet. */
  session(owner: string): { session: Session; close(): void };
  /** Starts a program of this folder under the agent's runtime. */
  start(source: string, args: readonly string[]): Promise<ChildProcess>;
}

/**
 * Starts sshd, agent and echo server, and connects.
 *
 * @param cleanUp Takes what is to be done at the end, last things first.
 * @param signal Aborted at the end: nothing more is started then.
 */
export async function makeWorld(
  cleanUp: (() => Promise<unknown>)[],
  signal: AbortSignal,
): Promise<World> {
  const dir = await makeTempDir("bench");
  cleanUp.push(dir.remove);
  const agent = await startBenchAgent(dir.path, cleanUp, signal);
  // Without a .bashrc, which bash reads for commands over SSH too: what a user has in it is not the
  // shell protocol's cost.
  const extraConfig = [`SetEnv HOME=${dir.path}`];
  const sshd = await startPrivateSshd({ dir: dir.path, extraConfig });
  cleanUp.push(sshd.stop);
  const { host, port, username, privateKey, hostFingerprint } = sshd;
  const target = { host, port, username, privateKey, hostFingerprint };
  const limits = { connectTimeoutMs: 10_000, keepaliveMs: KEEPALIVE_MS };
  const transport = await SshTransport.open(target, limits);
  cleanUp.push(() => transport.close());

  const start = async (source: string, args: readonly string[]) => {
    const program = await bundleProgram(`bench/${source}`, dir.path);
    signal.throwIfAborted();
    const child = spawn(findBun(), [program, ...args], { stdio: ["pipe", "pipe", "inherit"] });
    const exit = childExit(child);
    cleanUp.push(() => {
      child.kill("SIGKILL");
      return exit;
    });
    return child;
  };
  const echoSocket = join(dir.path, "echo.sock");
  const echo = await start("echo_server.ts", [echoSocket]);
  await once(echo.stdout as NodeJS.ReadableStream, "data");

  const session = (owner: string) => {
    const events = new EventTeller({ host, port, username }, undefined);
    const { socket: socketPath, lockDir } = agent.dirs;
    const ways = new Ways(transport, { host, owner, events, socketPath, lockDir });
    return { session: new Session({ host, transport, ways, events }), close: () => ways.close() };
  };
  return { agent, transport, echoSocket, dir: dir.path, session, start };
}
