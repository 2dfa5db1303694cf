import assert from "node:assert/strict";
import { once } from "node:events";
import test, { after, before } from "node:test";

import type { Session, WatchEvent, WatchState } from "../../controller/mod.ts";
import { startAgent, whyNoAgent } from "../support/agent_process.ts";
import { EventLog, within } from "../support/events.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { killAndConfirm } from "../support/processes.ts";
import { type Host, startHost } from "./controller_host.ts";

const skip = whyNoSshd() ?? whyNoAgent();
let host: Host;

before(async () => {
  if (skip === undefined) host = await startHost();
});
after(() => host?.[Symbol.asyncDispose]());

/** A watch that is read as it comes, and how it ended. */
function follow(session: Session, name?: string) {
  const log = new EventLog<WatchEvent>();
  const controller = new AbortController();
  const end = (async () => {
    for await (const event of session.watch(name, { signal: controller.signal })) log.push(event);
  })().then(() => undefined, (error: unknown) => error);
  void end.then((error) => log.end(String(error)));
  return { log, controller, end };
}

function holdersIn(event: WatchEvent, name: string): string[] {
  const locks = event.event === "state" ? event.locks : [event.lock];
  const holders = locks.find((lock) => lock.name === name)?.holders ?? [];
  return holders.map((holder) => holder.kind === "own" ? holder.owner : "foreign");
}

test("watch() gives the state, then each change, and ends with its signal", { skip }, async () => {
  await using session = await host.connect({ owner: "me/1" });
  await using rival = await host.connect({ owner: "you/2" });
  const lock = await session.claim("watched");
  const { log, controller, end } = follow(rival, "watched");
  const first = await log.waitFor(() => true);
  assert.deepEqual([first.event, holdersIn(first, "watched")], ["state", ["me/1"]]);
  await using _other = await session.claim("not-watched");
  const waiting = rival.claim("watched", { waitMs: 20_000 });
  await log.waitFor(({ event }) => event === "queued");
  await lock.release();
  await using _next = await within(waiting);
  const granted = await log.waitFor(({ event }) => event === "granted");
  assert.deepEqual(holdersIn(granted, "watched"), ["you/2"]);
  assert.deepEqual(log.all.map(({ event }) => event), ["state", "queued", "released", "granted"]);
  const reason = new Error("seen enough");
  controller.abort(reason);
  assert.equal(await within(end), reason);
});

test("a reader that breaks off ends its watch, and the session goes on", { skip }, async () => {
  await using session = await host.connect();
  for await (const { event } of session.watch()) {
    assert.equal(event, "state");
    break;
  }
  await using lock = await session.claim("after-watch");
  assert.ok(lock.held);
});

test("a watch starts anew with a fresh state when the agent has been started again", {
  skip,
}, async () => {
  await using alone = await startHost();
  await using session = await alone.connect({ owner: "me/1" });
  await using _lock = await session.claim("kept");
  const { log } = follow(session);
  await log.waitFor(({ event }) => event === "state");
  const dirs = alone.agent?.dirs;
  await killAndConfirm(alone.agent?.pid as number);
  await using _agent = await startAgent({ dirs });
  const again = await log.waitFor(({ event }) => event === "state", { from: 1 }) as WatchState;
  assert.equal(typeof again.interruption, "string");
  assert.deepEqual(holdersIn(again, "kept"), ["me/1"]);
  await using _next = await session.claim("next");
  await log.waitFor((event) => holdersIn(event, "next").length > 0, { from: log.all.length - 1 });
  const told = alone.events.filter(({ message }) => message.startsWith("watch starts anew"));
  assert.deepEqual(told.map(({ event, level }) => [event, level]), [["channel", "warn"]]);
});

test("a watch ends with its connection, and without an agent it is refused", { skip }, async () => {
  const session = await host.connect();
  const { log, end } = follow(session);
  await log.waitFor(() => true);
  await session.close();
  assert.equal((await within(end) as Error).name, "ConnectError");
  await using shell = await host.connect({ transport: "shell" });
  const refused = await within(follow(shell).end) as Error & { code: string };
  assert.deepEqual([refused.name, refused.code], ["AgentError", "unknown-method"]);
});

test("break() ends the session that has the lock, with the reason", { skip }, async () => {
  await using session = await host.connect({ owner: "me/1" });
  const rival = await host.connect({ owner: "you/2" });
  const lock = await rival.claim("broken");
  assert.deepEqual(await session.break("broken", "it hangs"), ["you/2"]);
  if (!lock.signal.aborted) await within(once(lock.signal, "abort"));
  assert.equal(lock.signal.reason.reason, "broken");
  assert.match(lock.signal.reason.detail, /^broken by .*: it hangs$/);
  await using _next = await session.claim("broken", { waitMs: 20_000 });
  await assert.rejects(session.break("free", "why not"), { code: "not-held" });
  await rival.close();
});
