import assert from "node:assert/strict";
import test from "node:test";

import { SessionCache } from "../../controller/session_cache.ts";
import { within } from "../support/events.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { signalPid } from "../support/processes.ts";
import { startHost } from "./controller_host.ts";

const skip = whyNoSshd();

test("a cache opens one session for a host and user, however many ask", { skip }, async () => {
  await using host = await startHost({ agent: false });
  await using cache = new SessionCache();
  const [first, second] = await Promise.all([
    cache.get(host.target),
    cache.get({ ...host.target }),
  ]);
  assert.equal(first, second);
  assert.equal(await cache.get(host.target), first);
  assert.equal(cache.size, 1);
});

test("a session whose connection was lost is dropped and replaced", { skip }, async () => {
  await using host = await startHost({ agent: false });
  await using cache = new SessionCache();
  const first = await cache.get(host.target);
  for (const { pid } of host.sshd.sessions()) signalPid(pid, "SIGKILL");
  await within(first.closed);
  const second = await cache.get(host.target);
  assert.notEqual(second, first);
  assert.ok(await second.available());
  await cache.drop(host.target);
  assert.equal(second.isOpen, false);
  assert.equal(cache.size, 0);
});

test("a connection that fails is not remembered", { skip }, async () => {
  await using host = await startHost({ agent: false });
  await using cache = new SessionCache();
  const { hostFingerprint: _, ...unknown } = host.target;
  await assert.rejects(cache.get(unknown), { name: "HostKeyError" });
  assert.ok((await cache.get(host.target)).isOpen);
});

test("closeAll() closes every session and returns what went wrong", { skip }, async () => {
  await using host = await startHost({ agent: false });
  const cache = new SessionCache();
  const sessions = [
    await cache.get(host.target),
    await cache.get({ ...host.target, host: "localhost" }),
  ];
  const failing = sessions[1] as { close(): Promise<void> };
  const close = failing.close.bind(failing);
  failing.close = async () => {
    await close();
    throw new Error("no goodbye");
  };
  const errors = await cache.closeAll();
  assert.deepEqual(errors.map(({ message }) => message), ["no goodbye"]);
  assert.deepEqual(sessions.map(({ isOpen }) => isOpen), [false, false]);
  assert.equal(cache.size, 0);
  assert.deepEqual(await cache.closeAll(), []);
});
