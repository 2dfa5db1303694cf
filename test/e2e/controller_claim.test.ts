import assert from "node:assert/strict";
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import test, { after, before } from "node:test";

import { AgentError, LockContendedError } from "../../controller/errors.ts";
import type { ContentionEvent, LogEvent } from "../../controller/events.ts";
import type { ForeignHolder, OwnHolder } from "../../protocol/messages.ts";
import { whyNoAgent } from "../support/agent_process.ts";
import { EventLog, until, within } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { isAlive, readArgv } from "../support/processes.ts";
import { shellLock } from "../support/shell_lock.ts";
import { type Host, startHost } from "./controller_host.ts";

const skip = whyNoSshd() ?? whyNoAgent();
let host: Host;

before(async () => {
  if (skip === undefined) host = await startHost();
});
after(() => host?.[Symbol.asyncDispose]());

for (const transport of ["streamlocal", "bridge"] as const) {
  test(
    `a claim by ${transport} is proven by a holder that has descriptor 999`,
    { skip },
    async () => {
      await using session = await host.connect({ owner: "me/1", transport });
      let pid: number;
      {
        await using lock = await session.claim("deploy", { purpose: "repair db1" });
        pid = lock.holderPid;
        assert.deepEqual(readArgv(pid), ["session-lock-deploy", "infinity"]);
        const file = join(host.lockDir, "session-lock-deploy");
        assert.equal(statSync(`/proc/${pid}/fd/999`).ino, statSync(file).ino);
        assert.equal((await shellLock(host.lockDir, "deploy")).kind, "contended");
        assert.deepEqual([lock.way, lock.reduced, lock.held, lock.shared], [
          transport,
          [],
          true,
          false,
        ]);
        assert.deepEqual([session.way, session.reduced], [transport, []]);
      }
      await until(() => !isAlive(pid), { what: "the end of the holder" });
      const free = await flock(join(host.lockDir, "session-lock-deploy"));
      assert.equal(free.kind, "held");
      if (free.kind === "held") await free.holder.end();
    },
  );

  test(`tokens rise from claim to claim by ${transport}`, { skip }, async () => {
    await using session = await host.connect({ transport });
    let last = 0;
    for (let i = 0; i < 5; i++) {
      await using lock = await session.claim("rising");
      assert.ok((lock.token as number) > last);
      last = lock.token as number;
    }
  });

  test(`a refused claim by ${transport} says who has the lock`, { skip }, async () => {
    await using first = await host.connect({ owner: "me/1" });
    await using second = await host.connect({ owner: "you/2", transport });
    await using lock = await first.claim("deploy", { purpose: "repair db1" });
    await assert.rejects(second.claim("deploy"), (error: LockContendedError) => {
      assert.ok(error instanceof LockContendedError);
      const holder = error.holder as OwnHolder;
      assert.deepEqual(
        [holder.kind, holder.owner, holder.purpose, holder.holderPid, holder.token],
        ["own", "me/1", "repair db1", lock.holderPid, lock.token],
      );
      assert.match(
        error.message,
        /^Cannot claim "deploy" on 127\.0\.0\.1: held by me\/1 \(.*uid \d+/,
      );
      return error.lockName === "deploy" && error.queueLength === 0 && error.waitedMs === 0;
    });
    // The session is as usable as before.
    await using other = await second.claim("other");
    assert.ok(other.held);
  });
}

test("the shell protocol refuses us while it has the lock, and is refused while we have it", {
  skip,
}, async () => {
  await using session = await host.connect();
  const outcome = await shellLock(host.lockDir, "both");
  assert.ok(outcome.kind === "locked");
  await assert.rejects(session.claim("both"), (error: LockContendedError) => {
    assert.equal(error.holder?.kind, "foreign");
    // The shell that started the holder has the descriptor too, as long as it lives.
    const { pid } = error.holder as ForeignHolder;
    return pid === outcome.lock.holderPid || pid === outcome.lock.shellPid;
  });
  const waiting = session.claim("both", { waitMs: 10_000 });
  await outcome.lock.end();
  await using lock = await within(waiting);
  assert.equal((await shellLock(host.lockDir, "both")).kind, "contended");
  await lock.release();
  const again = await shellLock(host.lockDir, "both");
  assert.ok(again.kind === "locked");
  await again.lock.end();
});

test(
  "a waiting claim is told its place and gets the lock when it is let go",
  { skip },
  async () => {
    await using first = await host.connect({ owner: "me/1" });
    await using second = await host.connect({ owner: "you/2" });
    const lock = await first.claim("queue");
    const queued = new EventLog<{ position: number; owner: string }>();
    const waiting = second.claim("queue", {
      waitMs: 10_000,
      onQueued: ({ position, holder }) =>
        queued.push({ position, owner: (holder as OwnHolder).owner }),
    });
    assert.deepEqual(await queued.waitFor(() => true), { position: 1, owner: "me/1" });
    await lock.release();
    await using next = await within(waiting);
    assert.ok((next.token as number) > (lock.token as number));
    assert.equal(lock.held, false);
    assert.equal(lock.signal.aborted, false);
  },
);

test("a claim that waited too long says for how long", { skip }, async () => {
  await using first = await host.connect({ owner: "me/1" });
  await using second = await host.connect({ owner: "you/2" });
  await using _lock = await first.claim("long");
  await assert.rejects(second.claim("long", { waitMs: 30 }), (error: LockContendedError) => {
    return error instanceof LockContendedError && error.waitedMs >= 30 &&
      / after \d+ ms: held by /.test(error.message);
  });
});

test("an aborted claim leaves the queue and rejects with the reason", { skip }, async () => {
  await using first = await host.connect({ owner: "me/1" });
  await using second = await host.connect({ owner: "you/2" });
  await using _lock = await first.claim("aborted");
  const controller = new AbortController();
  const reason = new Error("no longer needed");
  const waiting = second.claim("aborted", {
    waitMs: 60_000,
    signal: controller.signal,
    onQueued: () => controller.abort(reason),
  });
  await assert.rejects(within(waiting), reason);
  const { locks } = await first.status("aborted");
  assert.deepEqual(locks[0]?.waiters, []);
  await assert.rejects(second.claim("aborted", { signal: controller.signal }), reason);
});

test("observe and warn go on without the lock, and tell it by one event", { skip }, async () => {
  await using first = await host.connect({ owner: "me/1" });
  await using lock = await first.claim("seen");
  for (const [onContention, level] of [["observe", "info"], ["warn", "warn"]] as const) {
    const events: LogEvent[] = [];
    await using session = await host.connect({
      owner: "you/2",
      log: (event) => events.push(event),
    });
    await using result = await session.claim("seen", { onContention });
    assert.equal(result.kind, "unlocked");
    assert.deepEqual([result.held, result.token, result.signal.aborted], [false, undefined, false]);
    assert.equal(
      (result.kind === "unlocked" && result.holder as OwnHolder || undefined)?.owner,
      "me/1",
    );
    assert.equal((await session.exec("echo usable")).stdout, "usable\n");
    const contention = events.filter(({ event }) => event === "contention") as ContentionEvent[];
    assert.equal(contention.length, 1);
    assert.equal(contention[0]?.level, level);
    const { name, exit_code, session_fail_msg } = contention[0]?.contended_session_lock ?? {};
    assert.deepEqual([name, exit_code], ["seen", 124]);
    assert.match(session_fail_msg as string, /^session lock conflict for seen: held by me\/1/);
    assert.ok((contention[0]?.durationMs as number) >= 0);
    // Nothing was locked, queued or let go by it.
    const { locks } = await first.status("seen");
    assert.deepEqual([locks[0]?.holders.length, locks[0]?.waiters.length], [1, 0]);
    await using free = await session.claim("unseen", { onContention });
    assert.equal(free.kind, "lock");
  }
  assert.ok(lock.held);
});

test("shared claims share, and keep exclusive ones out", { skip }, async () => {
  await using first = await host.connect({ owner: "me/1" });
  await using second = await host.connect({ owner: "you/2" });
  await using one = await first.claim("read", { shared: true });
  await using two = await second.claim("read", { shared: true });
  assert.deepEqual([one.shared, two.shared], [true, true]);
  await using third = await host.connect({ owner: "they/3" });
  await assert.rejects(third.claim("read"), LockContendedError);
});

test(
  "what the agent refuses is an error with its code, not a reason to go around it",
  { skip },
  async () => {
    await using session = await host.connect();
    for (const name of ["../x", "", ".x", "a".repeat(101), "a b"]) {
      await assert.rejects(session.claim(name), (error: AgentError) => {
        return error instanceof AgentError && error.code === "bad-name";
      });
    }
    await assert.rejects(session.claim("x", { waitMs: -1 }), { code: "bad-params" });
    await using lock = await session.claim("twice");
    await assert.rejects(session.claim("twice"), { code: "already-claimed" });
    assert.ok(lock.held);
    assert.equal(session.way, "streamlocal");
  },
);

test("a release is told once, frees the lock, and may be repeated", { skip }, async () => {
  const events: LogEvent[] = [];
  await using session = await host.connect({ log: (event) => events.push(event) });
  const lock = await session.claim("once");
  await Promise.all([lock.release(), lock.release()]);
  await lock.release();
  assert.deepEqual(events.map(({ event }) => event), ["connect", "channel", "claim", "release"]);
  await using again = await session.claim("once");
  assert.ok((again.token as number) > (lock.token as number));
});

test("closing a session releases its locks before it returns", { skip }, async () => {
  const session = await host.connect();
  const locks = [await session.claim("c1"), await session.claim("c2")];
  await session.close();
  assert.deepEqual(locks.map(({ held }) => held), [false, false]);
  assert.deepEqual(locks.map(({ signal }) => signal.aborted), [false, false]);
  for (const name of ["c1", "c2"]) {
    const outcome = await flock(join(host.lockDir, `session-lock-${name}`));
    assert.equal(outcome.kind, "held");
    if (outcome.kind === "held") await outcome.holder.end();
  }
});

test("several claims at once use one channel and one greeting", { skip }, async () => {
  const events: LogEvent[] = [];
  await using session = await host.connect({ log: (event) => events.push(event) });
  const names = Array.from({ length: 20 }, (_, index) => `many-${index}`);
  const locks = await Promise.all(names.map((name) => session.claim(name)));
  assert.equal(new Set(locks.map(({ holderPid }) => holderPid)).size, 20);
  assert.equal(events.filter(({ event }) => event === "channel").length, 1);
});

test("status() shows holders and waiters", { skip }, async () => {
  await using first = await host.connect({ owner: "me/1" });
  await using second = await host.connect({ owner: "you/2" });
  await using lock = await first.claim("shown", { purpose: "why not" });
  const queued = new EventLog<number>();
  const controller = new AbortController();
  const waiting = second.claim("shown", {
    waitMs: 60_000,
    purpose: "me next",
    signal: controller.signal,
    onQueued: ({ position }) => queued.push(position),
  });
  await queued.waitFor((position) => position === 1);
  const { locks } = await first.status("shown");
  assert.equal((locks[0]?.holders[0] as OwnHolder).token, lock.token);
  assert.deepEqual(locks[0]?.waiters.map(({ owner, purpose }) => [owner, purpose]), [[
    "you/2",
    "me next",
  ]]);
  controller.abort(new Error("enough"));
  await assert.rejects(waiting, { message: "enough" });
  assert.deepEqual((await first.status("free")).locks, [{
    name: "free",
    holders: [],
    waiters: [],
  }]);
  await assert.rejects(first.status("../x"), { name: "AgentError", code: "bad-name" });
});

test(
  "a claim whose lock file cannot be had says so, with exit code 92 in its event",
  { skip },
  async () => {
    const path = join(host.lockDir, "session-lock-folder");
    const { mkdirSync, rmdirSync } = await import("node:fs");
    mkdirSync(path);
    const events: LogEvent[] = [];
    await using session = await host.connect({ log: (event) => events.push(event) });
    await assert.rejects(session.claim("folder"), { name: "AgentError", code: "lock-file" });
    const event = events.find(({ event }) => event === "contention") as ContentionEvent;
    assert.equal(event.contended_session_lock.exit_code, 92);
    rmdirSync(path);
    assert.ok(!existsSync(path));
  },
);
