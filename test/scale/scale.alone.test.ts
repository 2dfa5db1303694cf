import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { test, type TestContext } from "node:test";
import {
  agentCommand,
  type AgentProcess,
  makeAgentDirs,
  startAgent,
  whyNoAgent,
} from "../support/agent_process.ts";
import { isAlive, readStat, signalPid } from "../support/processes.ts";
import { connectRpc } from "../support/rpc_client.ts";
import { requires } from "../support/requires.ts";
import { fitToMachine, LONG } from "./sizes.ts";
import { startSwarm, type SwarmEvent } from "./swarm.ts";

// Against hanging only; a loaded machine may take minutes for what takes seconds.
const DEADLINE_MS = LONG ? 900_000 : 240_000;

/** How long an agent is watched at rest, in milliseconds. */
const WATCH_MS = LONG ? 10_000 : 1_000;

/** The other runtime shows the same in small: the run has only so much time. */
const SESSIONS = LONG || agentCommand().length === 1 ? 1_000 : 200;
const LOCKS = LONG ? 10_000 : 2 * SESSIONS;

const skip = whyNoAgent() ?? requires("python3", "/bin/sleep");

// As the unit starts it: Bun's collector has a timer otherwise.
const env = { BUN_GC_TIMER_DISABLE: "1" };

test("many sessions outlive their agent and all end at once", { skip }, async (t) => {
  const { sessions, locks, why } = fitToMachine({ sessions: SESSIONS, locks: LOCKS });
  if (why !== undefined) t.diagnostic(why);
  await using made = await makeAgentDirs();
  await using agent = await startAgent({ dirs: made.dirs, env });
  const before = memoryOf(agent.pid);

  const claimed = stopwatch();
  await using swarm = startSwarm(made.dirs.socket, {
    count: sessions,
    locks,
    leftover: true,
  });
  const granted = await swarm.all("granted", DEADLINE_MS);
  t.diagnostic(`${sessions} sessions claimed ${locks} locks in ${claimed()}`);
  const tokens = granted.flatMap(({ locks }) =>
    Object.values(locks ?? {}).map(({ token }) => token)
  );
  assert.equal(new Set(tokens).size, locks, "each lock has a token of its own");
  const perLock = (memoryOf(agent.pid) - before) / tokens.length;
  t.diagnostic(
    `memory of the agent: ${perLock.toFixed(1)} kB more for each lock and its share of a session`,
  );
  t.diagnostic(`the agent at rest: ${await wakeUps(agent.pid)}`);

  await agent.kill();
  const restarted = stopwatch();
  await using next = await startAgent({ dirs: made.dirs, env, deadlineMs: DEADLINE_MS });
  t.diagnostic(`agent killed: its successor took ${tokens.length} locks over in ${restarted()}`);
  const resumed = await swarm.all("resumed", DEADLINE_MS);
  t.diagnostic(`all ${sessions} sessions had resumed after ${restarted()}`);
  assert.deepEqual(resumed.filter(({ isSame }) => isSame !== true), [], "each has what it had");
  t.diagnostic(`the successor at rest: ${await wakeUps(next.pid)}`);

  await endAll(t, next, granted);
  await using client = await next.client("next");
  const highest = Math.max(...tokens);
  for (const name of Object.keys(granted[0]?.locks ?? {})) {
    assert.ok((await client.request<{ token: number }>("claim", { name })).token > highest);
  }
});

/** Kills every session's process, and looks that each is told to have ended only when its leftover has. */
async function endAll(t: TestContext, agent: AgentProcess, sessions: SwarmEvent[]): Promise<void> {
  const leftoverOf = new Map(
    sessions.map(({ session, leftover }) => [`swarm/${session}`, readStat(leftover ?? 0)]),
  );
  // Its pid is another process's soon, where many come and go.
  const hasLeftover = (owner: string) => {
    const leftover = leftoverOf.get(owner);
    return leftover !== undefined && isAlive(leftover.pid) &&
      readStat(leftover.pid)?.startTicks === leftover.startTicks;
  };
  assert.ok(
    [...leftoverOf.values()].every((stat) => stat?.comm === "sleep"),
    "each has a leftover",
  );
  const tooEarly: unknown[] = [];
  const ended = new Set<unknown>();
  const took = stopwatch();
  for (const { pid } of sessions) signalPid(pid, "SIGKILL");
  await agent.events.waitFor(({ event, owner, isFree }) => {
    if (event === "lock-ended" && isFree === true && hasLeftover(`${owner}`)) tooEarly.push(owner);
    if (event === "session-ended") ended.add(owner);
    return ended.size === sessions.length;
  }, { what: "the end of all sessions", deadlineMs: DEADLINE_MS });
  t.diagnostic(
    `${sessions.length} sessions killed at once, a leftover each: all ended in ${took()}`,
  );
  assert.deepEqual(tooEarly, [], "no lock is free before its session's leftover is gone");
  assert.deepEqual(sessions.filter(({ session }) => hasLeftover(`swarm/${session}`)), []);
}

test("many claims of one lock are granted in the order they came", { skip }, async (t) => {
  const { sessions } = fitToMachine({ sessions: SESSIONS, locks: 1 });
  await using agent = await startAgent({ env });
  await using holder = await connectRpc(agent.dirs.socket);
  await holder.request("hello", {
    ...{ protocol: 1, client: "test", owner: "holder", session: "process", silenceMs: 0 },
  });
  const first = await holder.request<{ token: number }>("claim", { name: "hot" });
  const options = { count: sessions, name: "hot", waitMs: 600_000, release: true, inOrder: true };
  await using swarm = startSwarm(agent.dirs.socket, options);
  const queued = await swarm.all("queued", DEADLINE_MS);
  assert.equal(Math.max(...queued.map(({ position }) => position ?? 0)), sessions);
  t.diagnostic(`the agent with ${sessions} claims that wait: ${await wakeUps(agent.pid)}`);

  const took = stopwatch();
  await holder.request("release", { name: "hot" });
  const granted = await swarm.all("granted", DEADLINE_MS);
  t.diagnostic(`${sessions} claims of one lock were granted and released in ${took()}`);
  const byToken = granted.map(({ session, locks }) => ({ session, token: locks?.hot?.token ?? 0 }))
    .sort((a, b) => a.token - b.token);
  assert.ok((byToken[0]?.token ?? 0) > first.token);
  assert.deepEqual(byToken.map(({ session }) => session), [...byToken.keys()]);
});

function stopwatch(): () => string {
  const startedAt = performance.now();
  return () => `${((performance.now() - startedAt) / 1_000).toFixed(2)} s`;
}

/** Memory that no other process shares and no file backs, in kilobytes. */
function memoryOf(pid: number): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "latin1");
  return Number(/^Private_Dirty:\s+(\d+)/m.exec(rollup)?.[1]);
}

/** How often the threads that are there before and after have gone to sleep meanwhile. */
async function wakeUps(pid: number): Promise<string> {
  // What the last step has left to be done is no rest yet.
  await delay(WATCH_MS);
  const before = switchesOf(pid);
  await delay(WATCH_MS);
  let [loop, helpers] = [0, 0];
  for (const [tid, switches] of switchesOf(pid)) {
    const count = switches - (before.get(tid) ?? switches);
    if (tid === `${pid}`) loop += count;
    else helpers += count;
  }
  const seconds = WATCH_MS / 1_000;
  return `${loop} wake-ups in ${seconds} s, and ${helpers} of the runtime's helper threads`;
}

function switchesOf(pid: number): Map<string, number> {
  return new Map(
    readdirSync(`/proc/${pid}/task`).map((tid) => {
      const status = readFileSync(`/proc/${pid}/task/${tid}/status`, "latin1");
      return [tid, Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)?.[1])];
    }),
  );
}
