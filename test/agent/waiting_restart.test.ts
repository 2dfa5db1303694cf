import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { WaitingClaim } from "../../agent/waiting_claim.ts";
import { runCommand, startCommand } from "../support/agent_command.ts";
import { type AgentProcess, makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { flock, type FlockHolder } from "../support/flock.ts";
import { signalPid } from "../support/processes.ts";
import { lockPath } from "../support/shell_lock.ts";

for (const signal of ["SIGKILL", "SIGTERM"] as const) {
  test(`a run that waits goes on at the next agent when the first gets ${signal}`, async () => {
    await using made = await makeAgentDirs();
    const first = await startAgent({ dirs: made.dirs });
    await using foreign = await takeByFlock(made.dirs.lockDir);
    const waiting = ["run", "-w", "60s", "--owner", "me", "x", "echo", "mine"];
    await using run = startCommand(made.dirs, waiting);
    await untilAwaited(first);
    signalPid(first.pid, signal);
    await first.exit;
    await using second = await startAgent({ dirs: made.dirs });
    await untilAwaited(second);
    await foreign.end();
    const { code, stdout, stderr } = await run.end;
    assert.deepEqual([code, stdout, stderr], [0, "mine\n", ""]);
    const granted = await second.events.waitFor(({ event }) => event === "lock-granted");
    assert.equal(granted.owner, "me");
  });
}

test("a run whose time is over while no agent runs exits 124 and says who has the lock", async () => {
  await using made = await makeAgentDirs();
  const agent = await startAgent({ dirs: made.dirs });
  await using foreign = await takeByFlock(made.dirs.lockDir);
  await using run = startCommand(made.dirs, ["run", "-w", "1s", "x", "echo", "mine"]);
  await untilAwaited(agent);
  await agent.kill();
  const { code, stdout, stderr } = await run.end;
  assert.deepEqual([code, stdout], [124, ""]);
  // Not less than it was to wait: the times before and after the end of the agent are one.
  assert.match(stderr, /^sshlock-agent: Cannot claim "x" after ([1-9]|\d\d+)(\.\d+)? s: .*flock/);
  assert.match(stderr, new RegExp(`pid ${foreign.pid}\\b`));
});

test("a claim that no agent answers any more is handed back with the time that it has left", async () => {
  await using made = await makeAgentDirs();
  const agent = await startAgent({ dirs: made.dirs });
  await using _foreign = await takeByFlock(made.dirs.lockDir);
  const waiting = new WaitingClaim({ name: "x", waitMs: 60_000 }, { agentBackMs: 100 });
  const claimed = waiting.fromAgents([made.dirs.socket], "me");
  await untilAwaited(agent);
  await agent.kill();
  const outcome = await claimed;
  assert.ok(outcome.kind === "no-agent");
  const { waitMs = 0 } = outcome.left;
  assert.ok(waitMs > 0 && waitMs <= 59_900, `${waitMs} ms are left`);
});

test("an agent that refuses the connection is not gone around", async () => {
  await using made = await makeAgentDirs();
  const config = join(made.dirs.runtimeDir, "agent.json");
  writeFileSync(config, JSON.stringify({ maxConnectionsPerUser: 1 }));
  await using agent = await startAgent({ dirs: made.dirs, args: ["--config", config] });
  // The connection that found the agent listening may not have been counted off yet.
  const connected = () => agent.client("me").catch(() => undefined);
  await using _only = await until(connected, { what: "a connection" });
  const { code } = await runCommand(made.dirs, ["run", "-w", "60s", "x", "true"]);
  assert.equal(code, 125);
});

/** Frees the lock with the block. */
async function takeByFlock(lockDir: string): Promise<FlockHolder> {
  const outcome = await flock(lockPath(lockDir, "x"));
  assert.ok(outcome.kind === "held");
  return outcome.holder;
}

async function untilAwaited(agent: AgentProcess): Promise<void> {
  await using client = await agent.client("watcher");
  await until(async () => {
    const { locks } = await client.request<{ locks: { waiters: unknown[] }[] }>("status", {
      name: "x",
    });
    return locks[0]!.waiters.length > 0;
  }, { what: "a waiter" });
}
