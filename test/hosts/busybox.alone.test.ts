import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";

import {
  AgentMissingError,
  connect,
  LockContendedError,
  type LogEvent,
} from "../../controller/mod.ts";
import { until } from "../support/events.ts";
import { requires } from "../support/requires.ts";
import { startBusyboxHost, whyNoBusyboxHosts } from "./support/busybox_host.ts";

const skip = whyNoBusyboxHosts();

test("busybox and dropbear: install.sh, and claims over the bridge", { skip }, async () => {
  await using host = await startBusyboxHost({ withAgent: true });
  const installed = host.sh("/opt/sshlock/install.sh --quiet");
  assert.equal(installed.code, 0, installed.stderr);
  const events: LogEvent[] = [];
  await using session = await connect(host.target, { owner: "a", log: (e) => events.push(e) });
  const lock = await session.claim("x");
  assert.deepEqual([lock.way, typeof lock.token, lock.reduced], ["bridge", "number", []]);
  assert.match(host.sh("ps").stdout, /session-lock-x infinity/);
  await using other = await connect(host.target, { owner: "b" });
  await assert.rejects(other.claim("x"), (error) => {
    assert.ok(error instanceof LockContendedError);
    assert.match(error.message, /held by a /);
    return true;
  });
  const waiting = other.claim("x", { waitMs: 30_000 });
  await lock.release();
  await using next = await waiting;
  assert.ok(next.token! > lock.token!);
});

test("busybox and dropbear: a connection that is dropped frees its lock", { skip }, async () => {
  await using host = await startBusyboxHost({ withAgent: true });
  assert.equal(host.sh("/opt/sshlock/install.sh --quiet").code, 0);
  await using session = await connect(host.target, { owner: "a" });
  const lock = await session.claim("x");
  await using other = await connect(host.target, { owner: "b" });
  const waiting = other.claim("x", { waitMs: 30_000 });
  // The first session's dropbear: the one whose descendant is the bridge of the holder's session.
  const status = host.sh("sshlock-agent status x --json");
  const { locks: [held] } = JSON.parse(status.stdout);
  const bridge = held.holders[0].peerPid;
  const parent = Number(/^PPid:\t(\d+)$/m.exec(host.sh(`cat /proc/${bridge}/status`).stdout)?.[1]);
  host.sh(`kill -9 ${parent}`);
  await using next = await waiting;
  assert.ok(next.held);
  if (!lock.signal.aborted) await once(lock.signal, "abort");
});

test("busybox without an agent and without bash: the claim says what is missing", {
  skip,
}, async () => {
  await using host = await startBusyboxHost();
  await using session = await connect(host.target);
  await assert.rejects(session.claim("x"), (error) => {
    assert.ok(error instanceof AgentMissingError);
    assert.match(error.message, /bash/);
    return true;
  });
});

test("busybox with bash and flock, without an agent: claims by the shell protocol", {
  skip: skip ?? requires("bash", "flock"),
}, async () => {
  await using host = await startBusyboxHost({ programs: ["bash", "flock"] });
  await using session = await connect(host.target);
  const lock = await session.claim("x");
  assert.equal(lock.way, "shell");
  assert.ok(lock.reduced.length > 0);
  await using other = await connect(host.target);
  await assert.rejects(other.claim("x"), LockContendedError);
  await lock.release();
  await using next = await other.claim("x");
  assert.ok(next.held);
  await next.release();
  await until(() => !host.sh("ps").stdout.includes("session-lock-x"), {
    what: "the end of all holders",
    intervalMs: 50,
  });
});
