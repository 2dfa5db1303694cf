import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test, { after, before } from "node:test";
import { setTimeout as delay } from "node:timers/promises";

import { LockLostError } from "../../controller/errors.ts";
import type { LogEvent, LossEvent } from "../../controller/events.ts";
import type { Lock } from "../../controller/lock.ts";
import type { Session } from "../../controller/session.ts";
import { makeAgentDirs, startAgent, whyNoAgent } from "../support/agent_process.ts";
import { childExit, eachLine } from "../support/child.ts";
import { EventLog, until, within } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { freeze, isAlive, killAndConfirm, readStat, signalPid } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { type Host, startHost } from "./controller_host.ts";

const skip = whyNoSshd() ?? whyNoAgent();
let host: Host;

before(async () => {
  if (skip === undefined) host = await startHost();
});
after(() => host?.[Symbol.asyncDispose]());

/** Waits for the loss, and checks what a caller sees of it. */
async function lossOf(lock: Lock): Promise<LockLostError> {
  const { signal } = lock;
  if (!signal.aborted) await within(once(signal, "abort"), { what: "the loss" });
  const loss = signal.reason;
  assert.ok(loss instanceof LockLostError);
  assert.equal(lock.held, false);
  await assert.rejects(lock.release(), loss);
  await lock[Symbol.asyncDispose]();
  return loss;
}

async function claim(session: Session, name: string): Promise<Lock> {
  const lock = await session.claim(name);
  assert.ok(lock.held);
  return lock;
}

test("a replaced lock file is a loss, told by the agent, and the end of the session", {
  skip,
}, async () => {
  await using session = await host.connect();
  const lock = await claim(session, "replaced");
  const other = await claim(session, "other");
  const { stdout } = await session.exec("nohup sleep 1000 >/dev/null 2>&1 & echo $!");
  const path = join(host.lockDir, "session-lock-replaced");
  writeFileSync(`${path}.new`, "");
  renameSync(`${path}.new`, path);
  const loss = await lossOf(lock);
  assert.deepEqual([loss.reason, loss.lockName, loss.token], [
    "lock-file-replaced",
    "replaced",
    lock.token,
  ]);
  assert.match(loss.message, /^Lost "replaced" on 127\.0\.0\.1: /);
  assert.equal(session.lossSignal.reason, loss);
  const event = host.events.find((event) =>
    event.event === "loss" && event.name === "replaced"
  ) as LossEvent;
  assert.deepEqual([event.name, event.reason, event.level], [
    "replaced",
    "lock-file-replaced",
    "error",
  ]);
  // The end of the session's sshd, which follows, is not the first cause.
  assert.equal((await lossOf(other)).reason, "lock-file-replaced");
  await using next = await host.connect();
  await using again = await next.claim("replaced", { waitMs: 30_000 });
  assert.ok((again.token as number) > (lock.token as number));
  assert.equal(isAlive(Number(stdout)), false, "it was granted beside what the session had left");
});

test("a holder that is killed under a live agent is no loss", { skip }, async () => {
  await using session = await host.connect();
  await using lock = await session.claim("held");
  await killAndConfirm(lock.holderPid);
  const { locks } = await session.status("held");
  assert.equal(locks[0]?.holders.length, 1);
  assert.ok(lock.held);
});

test("the end of the sshd session is a loss of all its locks", { skip }, async () => {
  const session = await host.connect();
  const locks = [await claim(session, "one"), await claim(session, "two")];
  for (const { pid } of host.sshd.sessions()) signalPid(pid, "SIGKILL");
  for (const lock of locks) assert.equal((await lossOf(lock)).reason, "connection-closed");
  assert.ok(session.lossSignal.aborted);
  await session.close();
});

test(
  "a command under a lock ends with the lock",
  { skip: skip ?? requires("bash", "flock") },
  async () => {
    await using session = await host.connect({ transport: "shell" });
    await using lock = await session.claim("protects");
    let pid = 0;
    const running = session.exec("echo $$; exec sleep 60", {
      signal: lock.signal,
      onStdout: (chunk) => {
        pid = Number(chunk);
        signalPid(lock.holderPid, "SIGKILL");
      },
    });
    await assert.rejects(within(running), { name: "LockLostError", reason: "holder-failed" });
    await until(() => !isAlive(pid), { what: `the end of ${pid}` });
  },
);

test(
  "an agent that stops answering is a loss by silence, before it ends the session",
  { skip },
  async () => {
    await using silent = await startHost();
    const agent = silent.agent as NonNullable<Host["agent"]>;
    await using session = await silent.connect({ silenceMs: 900 });
    const lock = await claim(session, "silent");
    await freeze(agent.pid);
    const startMs = performance.now();
    const loss = await lossOf(lock);
    const tookMs = performance.now() - startMs;
    assert.equal(loss.reason, "silence");
    signalPid(agent.pid, "SIGCONT");
    // The agent ends the session 900 ms after it last heard of it; only an upper bound can be told here.
    assert.ok(tookMs < 900, `gave up after ${tookMs} ms`);
    // Nothing more can be done on the host through this session; another one gets the lock.
    await assert.rejects(session.exec("true"), { name: "ConnectError" });
    await using next = await silent.connect();
    await using again = await next.claim("silent", { waitMs: 10_000 });
    assert.ok((again.token as number) > (lock.token as number));
  },
);

for (const signal of ["SIGKILL", "SIGTERM"] as const) {
  test(`an agent ended by ${signal} and started again is no loss`, { skip }, async () => {
    await using made = await makeAgentDirs();
    await using restarted = await startHost({ dirs: made.dirs });
    await using session = await restarted.connect({ transport: "streamlocal" });
    await using lock = await claim(session, "kept");
    const { token, holderPid } = lock;
    signalPid(restarted.agent?.pid as number, signal);
    await restarted.agent?.exit;
    await using next = await startAgent({ dirs: made.dirs });
    await next.events.waitFor(({ event }) => event === "session-resumed");
    const resumed = await until(() => restarted.events.find(isResumed), { what: "the event" });
    assert.equal(resumed.level, "warn");
    assert.ok(lock.held);
    const { locks: [facts] } = await session.status("kept");
    assert.deepEqual(
      facts!.holders.map((holder) => holder.kind === "own" && [holder.token, holder.state]),
      [[token, "held"]],
    );
    assert.ok(isAlive(holderPid));
    await lock.release();
    // Released before its agent ends, which is disposed of before the session.
    await using again = await session.claim("kept");
    assert.ok((again.token as number) > (token as number));
  });
}

test("a claim that waits when its agent is killed goes on at the next one", { skip }, async () => {
  await using made = await makeAgentDirs();
  await using restarted = await startHost({ dirs: made.dirs });
  const rivals = await flock(join(made.dirs.lockDir, "session-lock-wanted"));
  assert.ok(rivals.kind === "held");
  await using session = await restarted.connect({ transport: "streamlocal" });
  const queued = new EventLog<number>();
  const claiming = session.claim("wanted", {
    waitMs: 60_000,
    onQueued: ({ position }) => queued.push(position),
  });
  await queued.waitFor(() => true);
  await restarted.agent?.kill();
  await using next = await startAgent({ dirs: made.dirs });
  await queued.waitFor(() => queued.all.length === 2);
  await rivals.holder.end();
  await using lock = await claiming;
  assert.ok(lock.held);
  const granted = await next.events.waitFor(({ event }) => event === "lock-granted");
  assert.equal(granted.token, lock.token);
  const told = restarted.events.find(({ event, message }) =>
    event === "channel" && message.startsWith("claiming again at the next agent")
  );
  assert.equal(told?.level, "warn");
  await lock.release();
});

test(
  "a release that its agent does not live to hear is made at the next one",
  { skip },
  async () => {
    await using made = await makeAgentDirs();
    await using restarted = await startHost({ dirs: made.dirs });
    await using session = await restarted.connect({ transport: "streamlocal" });
    const lock = await claim(session, "let-go");
    const agent = restarted.agent as NonNullable<Host["agent"]>;
    await freeze(agent.pid);
    const released = lock.release();
    await agent.kill();
    await delay(400); // it tries several times, and nobody is there
    await using next = await startAgent({ dirs: made.dirs });
    await released;
    await using rival = await restarted.connect({ owner: "rival/1" });
    await using theirs = await rival.claim("let-go");
    assert.ok((theirs.token as number) > (lock.token as number));
    // It is the same session still: nobody ends it for having been silent.
    await using again = await session.claim("another");
    assert.equal((await session.exec("echo usable", { signal: again.signal })).stdout, "usable\n");
    await again.release();
    await theirs.release();
    const ended = next.events.all.filter(({ event }) => event === "session-ending");
    assert.deepEqual(ended, []);
  },
);

test("an agent that does not come back is a loss by silence", { skip }, async () => {
  await using dying = await startHost();
  const session = await dying.connect({ transport: "streamlocal", silenceMs: 900 });
  const lock = await claim(session, "dying");
  await dying.agent?.kill();
  assert.equal((await lossOf(lock)).reason, "silence");
  await session.close();
});

test(
  "a session beside an agent that is gone closes without waiting for silence",
  { skip },
  async () => {
    await using made = await makeAgentDirs();
    await using dying = await startHost({ dirs: made.dirs });
    const session = await dying.connect({ transport: "streamlocal" });
    const lock = await claim(session, "left");
    await dying.agent?.kill();
    await session.close();
    await lock[Symbol.asyncDispose]();
    assert.deepEqual(dying.events.filter(({ event }) => event === "loss"), []);
    await using next = await startAgent({ dirs: made.dirs });
    await next.events.waitFor(({ event, owner }) => event === "lock-ended" && owner !== undefined);
    await using rival = await dying.connect({ transport: "streamlocal" });
    await using theirs = await rival.claim("left", { waitMs: 30_000 });
    assert.ok((theirs.token as number) > (lock.token as number));
  },
);

test("sshd closing the channel under a healthy session is no loss", { skip }, async () => {
  await using host = await startHost({
    extraConfig: ["ChannelTimeout direct-streamlocal@openssh.com=2s"],
  });
  await using session = await host.connect({ transport: "streamlocal" });
  await using lock = await claim(session, "quiet");
  // The heartbeat comes every 3 s, so a channel is closed for want of traffic before it.
  await until(() => host.events.find(isResumed), { what: "a resumed session" });
  assert.ok(lock.held);
});

test("a controller that was stopped learns of its loss before it does anything else", {
  skip: skip ?? requires("./dist/controller/mod.js"),
}, async () => {
  const { target, lockDir } = host;
  // It claims, says so, and waits for a line; with it, it looks at the lock and tries to go on.
  const program = `
    import { connect } from ${JSON.stringify(join(process.cwd(), "dist/controller/mod.js"))};
    const session = await connect(${JSON.stringify(target)}, { silenceMs: 900 });
    const lock = await session.claim("stopped");
    console.log("claimed " + lock.token);
    for await (const _ of process.stdin) {
      const { held, signal } = lock;
      console.log(JSON.stringify({ held, reason: signal.reason?.reason }));
      break;
    }
    await session.close();
    process.exit(0);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], { stdio: "pipe" });
  const exit = childExit(child);
  const lines = new EventLog<string>();
  eachLine(child.stdout, (line) => lines.push(line));
  exit.then(() => lines.end("the controller has ended"));
  await lines.waitFor((line) => line.startsWith("claimed"));
  await freeze(child.pid as number);
  // The agent ends the session while the controller cannot know.
  await until(async () => {
    await using session = await host.connect();
    const lock = await session.claim("stopped").catch(() => undefined);
    return lock !== undefined;
  }, { what: "the lock, free again", intervalMs: 50 });
  child.stdin.write("go on\n");
  signalPid(child.pid as number, "SIGCONT");
  const seen = JSON.parse(await lines.waitFor((line) => line.startsWith("{")));
  assert.equal(seen.held, false);
  assert.ok(["silence", "channel-closed"].includes(seen.reason), seen.reason);
  assert.equal((await exit).code, 0);
  assert.ok(lockDir !== "" && readStat(child.pid as number)?.state !== "T");
});

function isResumed({ event, message }: LogEvent): boolean {
  return event === "channel" && message.startsWith("resumed the session");
}
