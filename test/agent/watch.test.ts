import assert from "node:assert/strict";
import { test } from "node:test";
import { runCommand, startCommand } from "../support/agent_command.ts";
import { makeAgentDirs, startAgent } from "../support/agent_process.ts";

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
