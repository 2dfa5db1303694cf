import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { agentCommand, type AgentProcess, dirArgs, startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { type PrivateSshd, startPrivateSshd } from "../support/private_sshd.ts";
import { type BridgedSession, openBridged } from "../support/ssh_session.ts";
import { makeTempDir } from "../support/temp_dir.ts";

/** An agent and a private sshd whose sessions leave processes behind. */
export interface Host extends AsyncDisposable {
  agent: AgentProcess;
  sshd: PrivateSshd;
  /** Opens a session that leaves processes behind; their pids come from files they write. */
  open(prelude: string, epilogue?: string): BridgedSession;
  /** The pid that a prelude has written with `echo $! >$DIR/name`. */
  pid(name: string): Promise<number>;
}

/** Starts both, with folders of their own. */
export async function startHost(): Promise<Host> {
  const dir = await makeTempDir("leftovers");
  const agent = await startAgent();
  const sshd = await startPrivateSshd({ dir: dir.path });
  const [program, ...rest] = agentCommand().map((word) =>
    word.startsWith("dist/") ? resolve(word) : word
  );
  const bridge = [program!, ...rest, "bridge", ...dirArgs(agent.dirs)];
  return {
    agent,
    sshd,
    open: (prelude, epilogue) => openBridged(sshd, `DIR=${dir.path}\n${prelude}`, bridge, epilogue),
    pid: (name) =>
      until(() => {
        try {
          return Number(readFileSync(`${dir.path}/${name}`, "utf8")) || undefined;
        } catch {
          return undefined;
        }
      }, { what: `the pid of ${name}` }),
    async [Symbol.asyncDispose]() {
      await sshd.stop();
      await agent.stop();
      await dir.remove();
    },
  };
}

/** Says hello and claims on a session that has just been opened; resolves with the token. */
export async function claim(
  session: BridgedSession,
  owner: string,
  params: Record<string, unknown>,
): Promise<number> {
  await session.client.request("hello", { protocol: 1, client: "test", owner });
  return (await session.client.request<{ token: number }>("claim", params)).token;
}
