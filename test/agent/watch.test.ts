import assert from "node:assert/strict";
import { test } from "node:test";
import type { ChangeParams, StatusResult } from "../../protocol/messages.ts";
import { runCommand, startCommand } from "../support/agent_command.ts";
import { makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { requires } from "../support/requires.ts";
import { lockPath, shellLock } from "../support/shell_lock.ts";

test("watch --json prints the locks as they are, then each change", async () => {
  await using agent = await startAgent();
  await using a = await agent.client("a");
  await using b = await agent.client("b");
  await a.request("claim", { name: "deploy" });
  await using watch = startCommand(agent.dirs, ["watch", "--json"]);
  await watch.out.waitFor((line) => line.includes('"event":"state"'));
  const waiting = b.request("claim", { name: "deploy", waitMs: 60_000 });
  await b.notification("queued");
  await a.request("release", { name: "deploy" });
  await waiting;
  await b.request("release", { name: "deploy" });
  await watch.out.waitFor((line) => line.includes('"released","owner":"b"'));
  const events = watch.out.all.map((line) => JSON.parse(line));
  assert.deepEqual(events.map(({ event, owner }) => [event, owner]), [
    ["state", undefined],
    ["queued", "b"],
    ["released", "a"],
    ["granted", "b"],
    ["released", "b"],
  ]);
  assert.equal(events[0].lock.holders[0].owner, "a");
  assert.equal(events[1].lock.waiters[0].owner, "b");
  assert.deepEqual(events[4].lock, { name: "deploy", holders: [], waiters: [] });
});

test("watch NAME prints only that lock, in words", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  await using watch = startCommand(agent.dirs, ["watch", "two"]);
  await watch.out.waitFor((line) => line === "two: free");
  for (const name of ["one", "two"]) await client.request("claim", { name });
  await watch.out.waitFor((line) => /^[\d:.]{12} {2}granted {3}a {2}two: held by a \(/.test(line));
  assert.equal(watch.out.all.length, 2);
});

test("watch tells of foreign holders that come and go, as status shows them", {
  skip: requires("bash", "flock"),
}, async () => {
  await using agent = await startAgent();
  const { lockDir } = agent.dirs;
  const before = await flock(lockPath(lockDir, "before"));
  await using client = await agent.client("a");
  await client.request("watch");
  const all = () => client.messages.all.map(({ params }) => params as unknown as ChangeParams);
  const changes = (event: string, names: string[]) =>
    until(() => {
      const told = all().filter((change) => change?.event === event);
      const last = names.map((name) => told.findLast(({ lock }) => lock.name === name));
      return last.every((change) => change !== undefined) && last;
    }, { what: `${event} of ${names}` });
  const [byFlock, byShell] = [
    await flock(lockPath(lockDir, "by-flock"), { shared: true }),
    await shellLock(lockDir, "by-shell"),
  ];
  assert.ok(before.kind === "held" && byFlock.kind === "held" && byShell.kind === "locked");
  const held = await changes("foreign-held", ["by-flock", "by-shell"]);
  // Which of the two processes of the shell protocol has the lock is seen when both are there.
  const [change] = held;
  const { locks } = await client.request<StatusResult>("status", { name: "by-flock" });
  assert.deepEqual([change?.owner, change?.lock], [undefined, locks[0]]);
  for (const holder of [before.holder, byFlock.holder, byShell.lock]) await holder.end();
  const gone = await changes("foreign-gone", ["before", "by-flock", "by-shell"]);
  for (const { lock } of gone) assert.deepEqual(lock, { ...lock, holders: [], waiters: [] });
  const told = all().filter((change) => change?.lock?.name === "before").map(({ event }) => event);
  assert.deepEqual(told, ["foreign-gone"], "what was there before is no change");
});

test("watch ends with 125 when the agent does, and where none runs", async () => {
  await using agent = await startAgent();
  await using watch = startCommand(agent.dirs, ["watch", "one"]);
  await watch.out.waitFor((line) => line === "one: free");
  await agent.kill();
  const ended = await watch.end;
  assert.equal(ended.code, 125);
  assert.match(ended.stderr, /^sshlock-agent: Cannot watch any longer: the agent has ended$/m);
  await using made = await makeAgentDirs();
  const absent = await runCommand(made.dirs, ["watch"]);
  assert.equal(absent.code, 125);
  assert.match(absent.stderr, /^sshlock-agent: Cannot watch locks: no agent runs \(.*\)\nhint: /);
});
