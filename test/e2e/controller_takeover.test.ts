import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { resolve } from "node:path";
import test, { after, before } from "node:test";

import type {
  LockContendedError,
  LockLostError,
  Session,
  TakeoverRequest,
} from "../../controller/mod.ts";
import type { OwnHolder } from "../../protocol/messages.ts";
import { whyNoAgent } from "../support/agent_process.ts";
import { childExit, eachLine } from "../support/child.ts";
import { EventLog, within } from "../support/events.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { isAlive, signalPid } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { type Host, startHost } from "./controller_host.ts";

const CLI = "./dist/sshlock";
const skip = whyNoSshd() ?? whyNoAgent();
let host: Host;

before(async () => {
  if (skip === undefined) host = await startHost();
});
after(() => host?.[Symbol.asyncDispose]());

async function holderOf(session: Session, name: string): Promise<OwnHolder> {
  const { locks } = await session.status(name);
  return locks[0]?.holders[0] as OwnHolder;
}

test("whoever has the lock is asked, and may release it", { skip }, async () => {
  await using session = await host.connect({ owner: "me/1" });
  await using rival = await host.connect({ owner: "you/2" });
  const asked: TakeoverRequest[] = [];
  host.events.length = 0;
  const lock = await session.claim("asked", {
    onTakeover: (request) => {
      asked.push(request);
      void lock.release();
    },
  });
  await using taken = await within(
    rival.claim("asked", { takeover: { reason: "the disk is full", deadlineMs: 60_000 } }),
  );
  const [request] = asked;
  assert.deepEqual([asked.length, request?.by, request?.reason, request?.forced], [
    1,
    "you/2",
    "the disk is full",
    true,
  ]);
  assert.ok(request !== undefined && request.deadlineMs > 0 && request.deadlineMs <= 60_000);
  assert.deepEqual([taken.takenFrom, taken.unparked], [["me/1"], false]);
  assert.ok((taken.token as number) > (lock.token as number));
  assert.equal(lock.signal.aborted, false, "a release is no loss");
  const told = host.events.filter(({ event }) => ["takeover", "claim"].includes(event));
  assert.deepEqual(told.map((event) => [event.event, event.level]), [
    ["claim", "info"],
    ["takeover", "warn"],
    ["claim", "info"],
  ]);
  assert.deepEqual("takenFrom" in told[2]! && told[2].takenFrom, ["me/1"]);
});

test("after the deadline the session is ended, and told by whom and why", { skip }, async () => {
  const session = await host.connect({ owner: "me/1" });
  await using rival = await host.connect({ owner: "you/2" });
  const lock = await session.claim("forced");
  const work = Number(
    (await session.exec("setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!")).stdout,
  );
  const takeover = { reason: "the disk is full", deadlineMs: 100 };
  await using taken = await within(rival.claim("forced", { takeover }), { deadlineMs: 30_000 });
  assert.ok(!isAlive(work), "granted once its processes are gone");
  if (!lock.signal.aborted) await within(once(lock.signal, "abort"));
  const loss = lock.signal.reason as LockLostError;
  assert.equal(loss.reason, "taken-over");
  assert.match(loss.detail, /you\/2.*the disk is full/);
  assert.deepEqual(taken.takenFrom, ["me/1"]);
  await session.close();
});

test("a takeover that ends with its own wait is a contention", { skip }, async () => {
  await using session = await host.connect({ owner: "me/1" });
  await using rival = await host.connect({ owner: "you/2" });
  await using lock = await session.claim("kept");
  const takeover = { reason: "in a hurry", deadlineMs: 60_000 };
  const refused = await within(
    rival.claim("kept", { takeover, waitMs: 50 }).catch((error: unknown) => error),
  ) as LockContendedError;
  assert.equal(refused.name, "LockContendedError");
  assert.equal((refused.holder as OwnHolder).owner, "me/1");
  assert.ok(lock.held);
});

test("without an agent there is neither takeover nor parking, and the error says so", {
  skip: skip ?? requires("bash", "flock"),
}, async () => {
  await using session = await host.connect({ transport: "shell" });
  for (const options of [{ takeover: { reason: "x" } }, { parkMs: 1_000 }]) {
    await assert.rejects(session.claim("no-agent", options), {
      name: "AgentError",
      code: "unknown-method",
      message: /no agent runs on the host/,
    });
  }
});

test("a parked lock waits for its owner after the controller is killed", {
  skip: skip ?? requires(CLI),
}, async () => {
  const { sshd, target } = host;
  const words = ["hold", "--json", "--owner", "me/1", "--park", "60s", "-i", sshd.privateKeyPath];
  const at = ["--fingerprint", sshd.hostFingerprint, "--agent-socket", `${target.agentSocket}`];
  const where = `${sshd.username}@127.0.0.1:${sshd.port}`;
  const child = spawn(resolve(CLI), [...words, ...at, where, "parked"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exit = childExit(child);
  const out = new EventLog<string>();
  eachLine(child.stdout, (line) => out.push(line));
  const held = JSON.parse(await out.waitFor(() => true));
  await using rival = await host.connect({ owner: "you/2" });
  let hasBegun = () => {};
  const began = new Promise<void>((resolve) => hasBegun = resolve);
  const parked = (async () => {
    for await (const { event } of rival.watch("parked")) {
      if (event === "state") hasBegun();
      if (event === "parked") return;
    }
  })();
  await within(began);
  assert.equal((await holderOf(rival, "parked")).state, "held");
  signalPid(child.pid as number, "SIGKILL");
  await within(exit);
  await within(parked, { deadlineMs: 30_000 });
  const refused = await rival.claim("parked").catch((error: unknown) => error);
  const { holder } = refused as LockContendedError;
  assert.deepEqual([(holder as OwnHolder).owner, (holder as OwnHolder).state], ["me/1", "parked"]);
  assert.ok(((holder as OwnHolder).parkedForMs as number) > 0);
  await using again = await host.connect({ owner: "me/1" });
  await using lock = await again.claim("parked");
  assert.equal(lock.unparked, true);
  assert.ok((lock.token as number) > held.token, "with a higher token");
});

test("a lock that is released is not parked", { skip }, async () => {
  await using session = await host.connect({ owner: "me/1" });
  await using rival = await host.connect({ owner: "you/2" });
  const lock = await session.claim("let-go", { parkMs: 60_000 });
  await lock.release();
  await using next = await rival.claim("let-go");
  assert.ok(next.held);
});
