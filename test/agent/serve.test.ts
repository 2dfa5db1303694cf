import assert from "node:assert/strict";
import { existsSync, statSync } from "node:fs";
import { test } from "node:test";
import { runCommand, startCommand } from "../support/agent_command.ts";
import { makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { until, within } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { descendants, isAlive, processesWithLockIn, signalPid } from "../support/processes.ts";
import { connectRpc } from "../support/rpc_client.ts";
import { lockPath } from "../support/shell_lock.ts";

test("the socket of a user's agent is nobody else's", async () => {
  await using agent = await startAgent();
  assert.equal(statSync(agent.dirs.socket).mode & 0o777, 0o600);
});

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(`an agent ended by ${signal} leaves held locks to the next, and nothing else`, async () => {
    await using made = await makeAgentDirs();
    const agent = await startAgent({ dirs: made.dirs });
    await using client = await agent.client("a");
    await using waiter = await agent.client("b");
    const { holderPid } = await client.request("claim", { name: "deploy" });
    waiter.request("claim", { name: "deploy", waitMs: 60_000 }).catch(() => {});
    await waiter.notification("queued");
    const children = descendants(agent.pid).map(({ pid }) => pid);
    assert.ok(children.length > 1, "a holder and a waiting one");
    signalPid(agent.pid, signal);
    assert.equal((await within(agent.exit)).code, 0);
    assert.equal(existsSync(made.dirs.socket), false);
    const others = children.filter((pid) => pid !== holderPid);
    await until(() => others.every((pid) => !isAlive(pid)), { what: "the end of the others" });
    assert.deepEqual(processesWithLockIn(made.dirs.lockDir), [holderPid]);
    const refused = await flock(lockPath(made.dirs.lockDir, "deploy"));
    assert.equal(refused.kind, "contended");
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

test("an agent that starts after a kill -9 takes locks over; their sessions resume", async () => {
  await using made = await makeAgentDirs();
  const first = await startAgent({ dirs: made.dirs });
  const client = await connectRpc(first.dirs.socket);
  const hello = await client.request<Hello>("hello", { protocol: 1, owner: "a" });
  const { holderPid, token } = await client.request("claim", { name: "deploy", purpose: "x" });
  await first.kill();
  assert.ok(existsSync(made.dirs.socket));
  assert.equal((await flock(lockPath(made.dirs.lockDir, "deploy"))).kind, "contended");

  await using second = await startAgent({ dirs: made.dirs });
  const adopted = await second.events.waitFor(({ event }) => event === "lock-adopted");
  assert.equal(adopted.holderPid, holderPid);
  assert.equal(adopted.owner, "a");
  await using again = await connectRpc(second.dirs.socket);
  const { secret } = hello.session;
  const resumed = await again.request<Hello>("hello", { protocol: 1, resume: secret });
  assert.equal(resumed.session.resumed, true);
  assert.equal(resumed.owner, "a");
  assert.deepEqual(resumed.locks, [
    { name: "deploy", token, holderPid, shared: false, waitedMs: 0 },
  ]);

  await again.request("release", { name: "deploy" });
  await until(() => !isAlive(holderPid as number), { what: "the end of the adopted holder" });
  await using next = await second.client("b");
  const claim = await next.request("claim", { name: "deploy", waitMs: 10_000 });
  assert.ok((claim.token as number) > (token as number));
});

test("an adopted holder that is killed is replaced, and the lock is never free", async () => {
  await using made = await makeAgentDirs();
  const first = await startAgent({ dirs: made.dirs });
  const client = await first.client("a");
  const { holderPid } = await client.request("claim", { name: "deploy" });
  await first.kill();
  await using second = await startAgent({ dirs: made.dirs });
  await second.events.waitFor(({ event }) => event === "lock-adopted");
  signalPid(holderPid as number, "SIGKILL");
  const replaced = await second.events.waitFor(({ event }) => event === "holder-replaced");
  assert.notEqual(replaced.holderPid, holderPid);
  assert.equal((await flock(lockPath(made.dirs.lockDir, "deploy"))).kind, "contended");
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

interface Hello {
  owner: string;
  session: { secret: string; resumed: boolean };
  locks: unknown[];
}
