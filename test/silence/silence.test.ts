import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { describe, test } from "node:test";
import { agentCommand, type AgentProcess, dirArgs, startAgent } from "../support/agent_process.ts";
import { until, within } from "../support/events.ts";
import { startPrivateSshd } from "../support/private_sshd.ts";
import { freeze, isAlive, killAndConfirm, signalPid } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { connectRpc, type RpcClient, RpcError } from "../support/rpc_client.ts";
import { openBridged } from "../support/ssh_session.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import { type Direction, makeLink, whyNoLink } from "./link.ts";
import { nowMs, PATIENCE, playScene, type Scene, SILENCE_MS } from "./scene.ts";

const skip = requires("sshd", "ssh", "ssh-keygen", "./dist/controller/mod.js");
const skipLink = skip ?? whyNoLink();

/** The moments of one silence, in milliseconds on CLOCK_MONOTONIC. */
interface Timeline {
  brokenAt: number;
  /** Absent: the controller does not run. */
  abortedAt?: number;
  endedAt: number;
  /** Why it ended, in the agent's words. */
  cause: unknown;
  grantedAt: number;
}

describe("a silent session ends before the next is granted:", { concurrency: true }, () => {
  test("a controller that is stopped", { skip }, async (t) => {
    await using scene = await playScene();
    const { controller } = scene;
    const timeline = await watchHandover(scene, () => freeze(controller.pid));
    tell(t, "a controller that is stopped", timeline);
    assert.equal(timeline.cause, "silence");
    assert.ok(timeline.endedAt < timeline.grantedAt, "the end comes before the next grant");
    // It finds the order to act in its stdin when it wakes.
    controller.act();
    signalPid(controller.pid, "SIGCONT");
    await assertPowerless(scene);
    const [aborted, acted] = controller.said.all.slice(1);
    assert.deepEqual([aborted?.event, acted?.event], ["aborted", "acted"]);
  });

  const cuts: [what: string, directions: Direction[]][] = [
    ["a machine that vanishes", ["to the host", "to the controller"]],
    ["a half-open connection, nothing reaches the host", ["to the host"]],
    ["a half-open connection, nothing reaches the controller", ["to the controller"]],
  ];
  for (const [what, directions] of cuts) {
    test(what, { skip: skipLink }, async (t) => {
      await using link = await makeLink();
      await using scene = await playScene(link);
      const timeline = await watchHandover(scene, () => link.lose(...directions));
      const aborted = await sayingOf(scene, "aborted");
      const whole = { ...timeline, abortedAt: aborted.atMs };
      tell(t, what, whole);
      assert.ok(whole.abortedAt < whole.endedAt, "the controller gives up before the agent does");
      assert.ok(whole.endedAt < whole.grantedAt, "the end comes before the next grant");
      assert.equal(aborted.held, false);
      assert.equal(aborted.reason, "silence");
      // What still reaches the host is that the controller closes its connection when it gives up.
      if (directions.includes("to the host")) assert.equal(timeline.cause, "silence");
      link.heal();
      scene.controller.act();
      await assertPowerless(scene);
    });
  }

  test(
    "a half-open connection, the client is gone without a word",
    { skip: skipLink },
    async (t) => {
      await using link = await makeLink();
      await using scene = await playScene(link);
      const timeline = await watchHandover(scene, async () => {
        link.lose("to the host", "to the controller");
        await killAndConfirm(scene.controller.pid);
      });
      tell(t, "a half-open connection, the client is gone", timeline);
      assert.equal(timeline.cause, "silence");
      assert.ok(timeline.endedAt < timeline.grantedAt, "the end comes before the next grant");
    },
  );

  test("its secret resumes nothing afterwards", { skip }, async () => {
    await using dir = await makeTempDir("silence");
    await using agent = await startAgent(PATIENCE);
    await using sshd = await startPrivateSshd({ dir: dir.path });
    const bridge = agentCommand().map((word) => word.startsWith("dist/") ? resolve(word) : word);
    const first = openBridged(sshd, "", [...bridge, "bridge", ...dirArgs(agent.dirs)]);
    const { session: { secret } } = await first.client.request<{ session: { secret: string } }>(
      "hello",
      { protocol: 1, owner: "a", silenceMs: 600 },
    );
    await first.client.request("claim", { name: "x" });
    const sessionPids = sshd.sessions().map(({ pid }) => pid);
    await freeze(first.pid);
    await using next = await connectNext(agent);
    await claimNext(next);
    assert.deepEqual(sessionPids.filter(isAlive), []);
    await next.request("release", { name: "x" });
    await using other = await connectRpc(agent.dirs.socket);
    const refused = await other.request("hello", { protocol: 1, resume: secret })
      .then(() => undefined, (error) => error);
    assert.ok(refused instanceof RpcError);
    assert.equal(refused.data?.code, "no-session");
    signalPid(first.pid, "SIGCONT");
    assert.equal((await within(first.exit, PATIENCE)).code, 255);
  });
});

/** Breaks the connection while another claim waits, and sees to it that nothing is left at its grant. */
async function watchHandover(
  { agent, sessionPids, controller }: Scene,
  breakIt: () => unknown,
): Promise<Timeline> {
  assert.deepEqual(controller.left.filter((pid) => !isAlive(pid)), [], "what it left runs");
  assert.ok(sessionPids.length > 0, "its sshd runs");
  await using next = await connectNext(agent);
  const claim = claimNext(next);
  await next.notification("queued");
  await breakIt();
  const brokenAt = nowMs();
  await claim;
  const grantedAt = nowMs();
  const alive = [...controller.left, ...sessionPids].filter(isAlive);
  assert.deepEqual(alive, [], "no process of the session lives when the next is granted");
  // A local session that ends with a lock takes all children of its process along: here, the others'.
  await next.request("release", { name: "x" });
  const ending = await agent.events.waitFor(({ event }) => event === "session-ending", PATIENCE);
  return { brokenAt, endedAt: monotonicOf(ending), cause: ending.reason, grantedAt };
}

/** Who waits for the lock; it sends no pings meanwhile. */
async function connectNext(agent: AgentProcess): Promise<RpcClient> {
  const next = await connectRpc(agent.dirs.socket);
  await next.request("hello", { protocol: 1, owner: "next", session: "process", silenceMs: 0 });
  return next;
}

function claimNext(next: RpcClient): Promise<unknown> {
  const { deadlineMs } = PATIENCE;
  return next.request("claim", { name: "x", waitMs: deadlineMs }, deadlineMs);
}

/** The agent's clock is the wall's, to the millisecond: the earliest that it can have been. */
function monotonicOf({ time }: Record<string, unknown>): number {
  return Date.parse(`${time}`) - Date.now() + nowMs();
}

async function sayingOf({ controller }: Scene, event: string) {
  return await controller.said.waitFor((said) => said.event === event, PATIENCE);
}

/** Whatever it tries through its session fails, and nothing of it comes to the host. */
async function assertPowerless(scene: Scene): Promise<void> {
  const acted = await sayingOf(scene, "acted");
  assert.equal(acted.held, false);
  assert.deepEqual(acted.errors.filter((name) => name === null), [], "each try fails");
  assert.ok((await sayingOf(scene, "aborted")).atMs < acted.atMs);
  assert.equal(existsSync(scene.traceFile), false, "its command has run on the host");
  await until(() => scene.sshd.sessions().length === 0, { ...PATIENCE, what: "no SSH session" });
}

function tell(
  t: { diagnostic(message: string): void },
  what: string,
  { brokenAt, abortedAt, endedAt, grantedAt }: Timeline,
): void {
  const after = (at: number) => `after ${Math.round(at - brokenAt)} ms`;
  const abort = abortedAt === undefined ? "" : `lock.signal aborts ${after(abortedAt)}, `;
  t.diagnostic(
    `${what} (silence limit ${SILENCE_MS} ms): ${abort}session and its sshd end ` +
      `${after(endedAt)}, next claim is granted ${after(grantedAt)}`,
  );
}
