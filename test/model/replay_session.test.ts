import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "node:test";
import type { Patch } from "../support/agent_build.ts";
import { type AgentProcess, dirArgs, whyNoAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { type PrivateSshd, startPrivateSshd } from "../support/private_sshd.ts";
import { isAlive, signalPid } from "../support/processes.ts";
import { requires, root } from "../support/requires.ts";
import { type BridgedSession, openBridged } from "../support/ssh_session.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import { type Flavour, flavour, isFreeForShell, LONG_MS, NAME } from "./replay_support.ts";
import { VARIANTS } from "./variants.ts";

const skip = whyNoAgent() ?? requires("sshd", "ssh", "ssh-keygen", root);

/** A counterexample that takes a real SSH session; it says how the promise was broken. */
interface SessionReplay {
  missing: number;
  patches: Patch[];
  events(host: Host): Promise<string | undefined>;
}

interface Host {
  agent: AgentProcess;
  /** Opens a session that has the lock; `$DIR` is a folder for pids. */
  hold(prelude: string, epilogue?: string): Promise<BridgedSession>;
  /** The pid that a prelude has written. */
  pid(name: string): Promise<number>;
}

const REPLAYS: SessionReplay[] = [
  {
    missing: 1,
    patches: [{
      file: "agent/session.ts",
      find: 'if (policy === "kill" || policy === "drain") {',
      replace: "if (policy === undefined) {",
    }],
    async events({ agent, hold, pid }) {
      // What is left does not hear TERM, so it lives through the grace.
      const session = await hold(
        `sh -c 'trap "" TERM; while :; do sleep 0.05; done' </dev/null >/dev/null 2>&1 &
         echo $! >$DIR/left`,
      );
      const left = await pid("left");
      await session.kill();
      await using next = await agent.client("b");
      await next.request("claim", { name: NAME, onEnd: "leave", waitMs: LONG_MS }, LONG_MS);
      const isLeft = isAlive(left);
      signalPid(left, "SIGKILL");
      if (isLeft) return "the next claim was granted beside a leftover process";
    },
  },
  {
    missing: 4,
    patches: [{
      file: "agent/session.ts",
      find: "    this.awaitResume(detail);\n  }",
      replace: `    this.#parts.table.finishEnd(this, { reason: "released", detail });\n  }`,
    }],
    async events({ agent, hold }) {
      const session = await hold("", "exec sleep 1000");
      const { locks: [lock] } = await session.client.request<Status>("status", { name: NAME });
      // The bridge is killed: EOF on the claim's channel, and the session lives.
      signalPid(lock!.holders[0]!.peerPid, "SIGKILL");
      await agent.events.waitFor(({ event }) =>
        event === "session-detached" || event === "lock-ended"
      );
      const isFree = await isFreeForShell(agent.dirs);
      await session.kill();
      if (isFree) return "EOF freed the lock of a living session";
    },
  },
];

for (const { missing, patches, events } of REPLAYS) {
  const { what, violated } = VARIANTS.find((variant) => variant.missing === missing)!;
  test(`replay ${missing}: with ${what} the promise is kept`, { skip }, async () => {
    assert.equal(await onHost(await flavour("real", []), events), undefined);
  });
  test(`replay ${missing}: without ${what} it is broken (${violated})`, { skip }, async (t) => {
    const how = await onHost(await flavour(`replay-${missing}-broken`, patches), events);
    assert.notEqual(how, undefined, "the replay does not bite");
    t.diagnostic(how!);
  });
}

async function onHost<T>({ argv, start }: Flavour, act: (host: Host) => Promise<T>): Promise<T> {
  await using dir = await makeTempDir("replay");
  await using agent = await start();
  await using sshd = await startPrivateSshd({ dir: dir.path });
  const command = argv.map((word) => word.startsWith("dist/") ? resolve(word) : word);
  const bridge = [...command, "bridge", ...dirArgs(agent.dirs)];
  return await act({
    agent,
    hold: (prelude, epilogue) => hold(sshd, `DIR=${dir.path}\n${prelude}`, bridge, epilogue),
    pid: (name) => until(() => readPid(join(dir.path, name)), { what: `the pid of ${name}` }),
  });
}

async function hold(
  sshd: PrivateSshd,
  prelude: string,
  bridge: string[],
  epilogue: string | undefined,
): Promise<BridgedSession> {
  const session = openBridged(sshd, prelude, bridge, epilogue);
  await session.client.request("hello", { protocol: 1, client: "test", owner: "a" });
  await session.client.request("claim", { name: NAME, graceMs: 300 });
  return session;
}

function readPid(path: string): number | undefined {
  try {
    return Number(readFileSync(path, "utf8")) || undefined;
  } catch {
    return undefined; // not written yet
  }
}

interface Status {
  locks: { holders: { peerPid: number }[] }[];
}
