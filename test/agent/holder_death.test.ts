import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { buildAgent, withAgent } from "../support/agent_build.ts";
import { startAgent } from "../support/agent_process.ts";
import { childExit, eachLine } from "../support/child.ts";
import { EventLog, until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { descendants, freeze, isAlive, readArgv, signalPid } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { lockPath } from "../support/shell_lock.ts";

const KILLS = 20;

test("a holder killed under a live agent is replaced within a second, and nobody gets the lock", {
  skip: requires("python3"),
}, async (t) => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  const claim = await client.request("claim", { name: "deploy" });
  await using prober = startProber(lockPath(agent.dirs.lockDir, "deploy"));
  await prober.lines.waitFor((line) => line === "probing");
  let holderPid = claim.holderPid as number;
  let slowestMs = 0;
  for (let kill = 0; kill < KILLS; kill++) {
    const from = agent.events.all.length;
    const killedAt = performance.now();
    assert.ok(signalPid(holderPid, "SIGKILL"));
    const event = await agent.events.waitFor(
      (event) => event.event === "holder-replaced",
      { from, what: "a new holder" },
    );
    slowestMs = Math.max(slowestMs, performance.now() - killedAt);
    holderPid = event.holderPid as number;
    assert.deepEqual(readArgv(holderPid), ["session-lock-deploy", "infinity"]);
  }
  assert.ok(slowestMs < 1_000, `a new holder took ${slowestMs} ms`);
  t.diagnostic(`slowest of ${KILLS} replacements: ${slowestMs.toFixed(1)} ms`);
  assert.match(await prober.end(), /^never \d+$/);
  const { token } = await client.request("release", { name: "deploy" });
  assert.equal(token, claim.token);
  assert.ok(!client.messages.all.some(({ method }) => method === "lost"));
});

test("shared holders are replaced too, and go on sharing", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  const first = await a.request("claim", { name: "db", shared: true });
  await b.request("claim", { name: "db", shared: true });
  signalPid(first.holderPid as number, "SIGKILL");
  const event = await agent.events.waitFor(({ event }) => event === "holder-replaced");
  assert.equal(event.shared, true);
  assert.equal((await flock(lockPath(agent.dirs.lockDir, "db"))).kind, "contended");
});

test("a lock that is released while its holder is being replaced is free for the next claim", async () => {
  // As slow as the kernel may be on a busy host.
  const argv = await buildAgent({
    name: "slow-kill",
    patches: [{
      file: "agent/holder.ts",
      find: `    if (this.#isAlive) this.#child.kill("SIGKILL");`,
      replace: `    if (this.#isAlive) setTimeout(() => this.#child.kill("SIGKILL"), 500);`,
    }],
  });
  await withAgent(argv, async () => {
    await using agent = await startAgent();
    await using client = await agent.client("a");
    await using next = await agent.client("b");
    const { holderPid } = await client.request("claim", { name: "deploy" });
    const [spare] = await until(() => sparesOf(agent.pid).length === 1 && sparesOf(agent.pid));
    await freeze(spare!);
    signalPid(holderPid as number, "SIGKILL");
    await agent.events.waitFor(({ event }) => event === "holder-died");
    await client.request("release", { name: "deploy" });
    signalPid(spare!, "SIGCONT");
    await until(async () => !isAlive(spare!) || await isLocked(agent.dirs.lockDir), {
      what: "a lock that the new holder takes",
    });
    await next.request("claim", { name: "deploy" });
  });
});

test("a lock outlives its agent's SIGKILL, and is free once its holder is killed as well", {
  skip: requires("python3"),
}, async (t) => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  const holderPid = (await client.request("claim", { name: "deploy" })).holderPid as number;
  await agent.kill();
  assert.ok(isAlive(holderPid));
  assert.equal((await flock(lockPath(agent.dirs.lockDir, "deploy"))).kind, "contended");
  await using prober = startProber(lockPath(agent.dirs.lockDir, "deploy"));
  await prober.lines.waitFor((line) => line === "probing");
  const killedAt = performance.now();
  signalPid(holderPid, "SIGKILL");
  await prober.lines.waitFor((line) => line.startsWith("got "), { what: "the free lock" });
  t.diagnostic(`free ${(performance.now() - killedAt).toFixed(1)} ms after the kill`);
});

test("a killed spare costs no claim", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  for (let round = 0; round < 5; round++) {
    // Whatever waits ahead of use: the agent's children that are no holders yet.
    for (const pid of sparesOf(agent.pid)) signalPid(pid, "SIGKILL");
    await client.request("claim", { name: "deploy" });
    await client.request("release", { name: "deploy" });
  }
});

async function isLocked(lockDir: string): Promise<boolean> {
  const outcome = await flock(lockPath(lockDir, "deploy"));
  if (outcome.kind === "held") await outcome.holder.end();
  return outcome.kind !== "held";
}

function sparesOf(agentPid: number): number[] {
  return descendants(agentPid).map(({ pid }) => pid)
    .filter((pid) => readArgv(pid)[0]?.startsWith("sshlock-spare") === true);
}

function startProber(path: string) {
  const child = spawn("python3", ["test/fixtures/probe_lock.py", path], { stdio: "pipe" });
  child.stdin.on("error", () => {});
  const exit = childExit(child);
  const lines = new EventLog<string>();
  eachLine(child.stdout, (line) => lines.push(line));
  const end = async () => {
    child.stdin.end();
    await exit;
    return await lines.waitFor((line) => line !== "probing");
  };
  const dispose = async () => {
    child.stdin.end();
    await exit;
  };
  return { lines, end, [Symbol.asyncDispose]: dispose };
}
