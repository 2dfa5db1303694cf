import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { buildAgent } from "../support/agent_build.ts";
import { until } from "../support/events.ts";
import { type PrivateSshd, startPrivateSshd } from "../support/private_sshd.ts";
import { isAlive, killAndConfirm, readStat, signalPid } from "../support/processes.ts";
import { requires, root } from "../support/requires.ts";
import { connectRpc, type RpcClient } from "../support/rpc_client.ts";
import { type BridgedSession, openBridged } from "../support/ssh_session.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import { makePlace, type Place, setCrashing, startCrashAgent } from "./crash_agent.ts";

const skip = requires(
  ...["sshd", "ssh", "ssh-keygen", root, `dist/sshlock-holder-${process.arch}`],
);

test("what a session has left is found by the next agent, whenever the first was killed", {
  skip,
}, async () => {
  await using host = await startHost();
  const session = await host.claim("grant.settled:1");
  const [left, sshd] = [await host.pid("left"), await host.sshdOf()];
  await using next = await host.startNextAgent();
  await session.kill();
  signalPid(sshd, "SIGKILL");
  await next.client.request("claim", { name: "x", waitMs: 30_000 });
  assert.ok(isOver(left), "the lock was handed over beside a leftover");
});

test("a session that was being ended stays ended when its agent is killed", { skip }, async () => {
  await using host = await startHost();
  const session = await host.claim("end.told:1");
  const [left, sshd] = [await host.pid("left"), await host.sshdOf()];
  await using admin = await host.connect("admin");
  await admin.client.request("break", { name: "x", reason: "test" }).catch(() => {/* it dies */});
  await using next = await host.startNextAgent("a");
  // The owner is the same, but nobody joins what is ending.
  const { joined } = await next.client.request<{ joined?: boolean }>("claim", {
    ...{ name: "x", waitMs: 30_000 },
  });
  assert.equal(joined, undefined);
  assert.ok(isOver(left) && isOver(sshd), "the lock was handed over beside what was being ended");
  await session.kill();
});

function isOver(pid: number): boolean {
  return !isAlive(pid) || readStat(pid)?.state === "Z";
}

interface Client extends AsyncDisposable {
  client: RpcClient;
}

/** An sshd, and agents in a row of which the first is killed at a step. */
interface Host extends AsyncDisposable {
  /** Starts the first agent, and claims over SSH; the session's shell has left a daemon behind. */
  claim(crashAt: string): Promise<BridgedSession>;
  connect(owner: string): Promise<Client>;
  /** Waits for the end of the first agent, starts another, and connects to it. */
  startNextAgent(owner?: string): Promise<Client>;
  pid(name: string): Promise<number>;
  /** The sshd of the session. */
  sshdOf(): Promise<number>;
}

async function startHost(): Promise<Host> {
  const argv = await buildAgent({ name: "crash", crashPoints: true, engine: "binary" });
  const [dir, place] = [await makeTempDir("ended"), await makePlace()];
  const sshd: PrivateSshd = await startPrivateSshd({ dir: dir.path });
  const agents: number[] = [];
  let first: Promise<unknown>;
  const start = async (crashAt: string) => {
    const agent = await startCrashAgent(argv, place, crashAt);
    agents.push(agent.pid);
    return agent;
  };
  const connect = async (owner: string): Promise<Client> => {
    const client = await connectRpc(place.socket);
    await client.request("hello", { protocol: 1, client: "test", owner, session: "process" });
    return { client, [Symbol.asyncDispose]: () => client[Symbol.asyncDispose]() };
  };
  const pid = (name: string) =>
    until(() => {
      try {
        return Number(readFileSync(`${dir.path}/${name}`, "utf8")) || undefined;
      } catch {
        return undefined;
      }
    }, { what: `the pid of ${name}` });
  return {
    connect,
    pid,
    async claim(crashAt) {
      setCrashing(place, true);
      first = (await start(crashAt)).exit;
      const session = openBridged(sshd, leaveBehind(dir.path), bridgeTo(argv, place), "sleep 1000");
      await pid("left");
      await session.client.request("hello", { protocol: 1, client: "test", owner: "a" });
      // The bridge ends with the agent, the session does not.
      const granted = session.client.request("claim", { name: "x", graceMs: 100 });
      await Promise.race([granted.catch(() => first), first]);
      return session;
    },
    async startNextAgent(owner = "b") {
      await first;
      setCrashing(place, false);
      await start("none:1");
      return await connect(owner);
    },
    async sshdOf() {
      return readStat(await pid("shell"))!.ppid;
    },
    async [Symbol.asyncDispose]() {
      for (const agent of agents) await killAndConfirm(agent);
      await sshd.stop();
      await Promise.all([place.remove(), dir.remove()]);
    },
  };
}

function leaveBehind(dir: string): string {
  return `echo $$ >${dir}/shell\n` +
    `(setsid sh -c 'echo $$ >${dir}/left; exec sleep 1000' </dev/null >/dev/null 2>&1 &)`;
}

function bridgeTo(argv: string[], { socket, lockDir, runtimeDir, stateDir }: Place): string[] {
  const dirs = ["--lock-dir", lockDir, "--runtime-dir", runtimeDir, "--state-dir", stateDir];
  return [...argv, "bridge", "--socket", socket, ...dirs];
}
