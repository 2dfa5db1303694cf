import assert from "node:assert/strict";
import { existsSync, statSync } from "node:fs";
import { test } from "node:test";
import { runCommand, startCommand } from "../support/agent_command.ts";
import { makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { until, within } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { descendants, isAlive, processesWithLockIn, signalPid } from "../support/processes.ts";
import { lockPath } from "../support/shell_lock.ts";

test("the socket of a user's agent is nobody else's", async () => {
  await using agent = await startAgent();
  assert.equal(statSync(agent.dirs.socket).mode & 0o777, 0o600);
});

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(`an agent ended by ${signal} tells its sessions and leaves nothing`, async () => {
    await using made = await makeAgentDirs();
    const agent = await startAgent({ dirs: made.dirs });
    await using client = await agent.client("a");
    await using waiter = await agent.client("b");
    const { token } = await client.request("claim", { name: "deploy" });
    waiter.request("claim", { name: "deploy", waitMs: 60_000 }).catch(() => {});
    await waiter.notification("queued");
    const children = descendants(agent.pid).map(({ pid }) => pid);
    assert.ok(children.length > 0);
    signalPid(agent.pid, signal);
    const { params } = await client.notification("lost");
    assert.equal(params.reason, "agent-ended");
    assert.equal(params.token, token);
    assert.equal((await within(agent.exit)).code, 0);
    assert.equal(existsSync(made.dirs.socket), false);
    await until(() => children.every((pid) => !isAlive(pid)), { what: "the end of all holders" });
    assert.deepEqual(processesWithLockIn(made.dirs.lockDir), []);
    const free = await flock(lockPath(made.dirs.lockDir, "deploy"));
    assert.ok(free.kind === "held");
    await free.holder.end();
  });
}

test("a second agent in the same place is refused, and the first goes on", async () => {
  await using agent = await startAgent();
  const second = await runCommand(agent.dirs, ["serve"]);
  assert.equal(second.code, 125);
  const run = `${agent.dirs.runtimeDir}/agent.lock`;
  assert.match(
    second.stderr,
    new RegExp(
      `Cannot start the agent: another one has ${run} locked \\(pid ${agent.pid}\\)\nhint: `,
    ),
  );
  await using client = await agent.client("a");
  assert.deepEqual(await client.request("ping"), {});
});

test("an agent that ignores SIGHUP says so", async () => {
  await using agent = await startAgent();
  signalPid(agent.pid, "SIGHUP");
  await agent.events.waitFor(({ event }) => event === "signal-ignored");
  await using client = await agent.client("a");
  assert.deepEqual(await client.request("ping"), {});
});

test("an agent replaces the socket of one that was killed, and ends the holders it left", async () => {
  await using made = await makeAgentDirs();
  const first = await startAgent({ dirs: made.dirs });
  const client = await first.client("a");
  const { holderPid, token } = await client.request("claim", { name: "deploy", purpose: "x" });
  await first.kill();
  assert.ok(existsSync(made.dirs.socket));
  await using second = await startAgent({ dirs: made.dirs });
  const orphan = await second.events.waitFor(({ event }) => event === "orphan-ended");
  assert.equal(orphan.holderPid, holderPid);
  assert.equal(orphan.owner, "a");
  await using next = await second.client("b");
  const claim = await next.request("claim", { name: "deploy", waitMs: 10_000 });
  assert.ok((claim.token as number) > (token as number));
  assert.ok(!isAlive(holderPid as number));
});

test("an agent that starts leaves the holder of a living run alone", async () => {
  await using made = await makeAgentDirs();
  const { dirs } = made;
  await using run = startCommand(dirs, ["run", "deploy", "sh", "-c", "echo up; exec cat"]);
  await run.out.waitFor((line) => line === "up");
  const [holderPid] = processesWithLockIn(dirs.lockDir);
  await using agent = await startAgent({ dirs });
  await using client = await agent.client("a");
  await assert.rejects(
    client.request("claim", { name: "deploy" }),
    ({ data }: { data: { holder: { pid: number; record: { owner: string } } } }) => {
      assert.equal(data.holder.pid, holderPid);
      assert.match(data.holder.record.owner, new RegExp(`/${run.pid}$`));
      return true;
    },
  );
  run.child.stdin?.end();
  assert.equal((await run.end).code, 0);
});

test("with --idle-exit an agent ends by itself, but not while somebody is connected", async () => {
  await using agent = await startAgent({ args: ["--idle-exit", "300ms"] });
  const client = await agent.client("a");
  await client.request("claim", { name: "deploy" });
  await new Promise((resolve) => setTimeout(resolve, 600));
  assert.deepEqual(await client.request("ping"), {});
  await client.close();
  assert.equal((await within(agent.exit)).code, 0);
  assert.equal(agent.events.all.at(-1)?.reason, "nothing was connected");
});
