// The controller as it is published (dist/controller/mod.js) on each runtime: this file runs as it is
// under `node`, `deno test` and `bun test`, which all know node:test. It keeps to plain test() calls
// (no hooks, no subtests, no mocks), which mean the same on all three.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import test from "node:test";
import { pathToFileURL } from "node:url";

import { startAgent, whyNoAgent } from "../support/agent_process.ts";
import { within } from "../support/events.ts";
import { startPrivateSshd, whyNoSshd } from "../support/private_sshd.ts";
import { isAlive, signalPid } from "../support/processes.ts";
import { shellLock } from "../support/shell_lock.ts";
import { makeTempDir } from "../support/temp_dir.ts";

const MODULE = "dist/controller/mod.js";
const skip = whyNoSshd() ?? whyNoAgent() ??
  (existsSync(MODULE) ? false : `needs ${MODULE}: build first`);

type Controller = typeof import("../../controller/mod.ts");

/** An sshd, an agent and the published module. */
async function startAll() {
  const controller: Controller = await import(pathToFileURL(resolve(MODULE)).href);
  const dir = await makeTempDir();
  const agent = await startAgent();
  // Bun's os.userInfo() knows no name where USER is not set.
  const user = execFileSync("id", ["-un"], { encoding: "utf8" }).trim();
  const sshd = await startPrivateSshd({ dir: dir.path, user });
  const target = {
    host: sshd.host,
    port: sshd.port,
    username: sshd.username,
    privateKey: sshd.privateKey,
    hostFingerprint: sshd.hostFingerprint,
    agentSocket: agent.dirs.socket,
  };
  const end = async () => {
    await sshd.stop();
    await agent.stop();
    await dir.remove();
  };
  return { ...controller, agent, sshd, target, [Symbol.asyncDispose]: end };
}

test("a claim, a refusal with its holder, a command, a release", { skip }, async () => {
  await using all = await startAll();
  const { connect, target, agent, LockContendedError } = all;
  await using session = await connect(target, { owner: "me/1" });
  const lock = await session.claim("deploy", { purpose: "repair db1" });
  assert.deepEqual([lock.way, lock.held, typeof lock.token], ["streamlocal", true, "number"]);
  assert.equal((await shellLock(agent.dirs.lockDir, "deploy")).kind, "contended");
  await using other = await connect(target, { owner: "you/2" });
  const refused = await other.claim("deploy").catch((error: unknown) => error);
  assert.ok(refused instanceof LockContendedError);
  assert.match(refused.message, /held by me\/1 .* for "repair db1"/);
  const waiting = other.claim("deploy", { waitMs: 20_000 });
  const { stdout } = await session.exec`printf %s ${"it's $HOME"}`;
  assert.equal(stdout, "it's $HOME");
  await lock.release();
  await using next = await within(waiting);
  assert.ok((next.token as number) > (lock.token as number));
});

test("commands: standard input, failure, timeout, streaming", { skip }, async () => {
  await using all = await startAll();
  await using session = await all.connect(all.target);
  assert.equal((await session.exec("cat", { stdin: "héllo" })).stdout, "héllo");
  const big = new Uint8Array(3_000_000).fill(97);
  const copy = await session.exec("cat", { stdin: big, encoding: "buffer" });
  assert.equal(copy.stdout.length, big.length);
  const failed = await session.exec("echo no >&2; exit 3").catch((error: unknown) => error);
  assert.ok(failed instanceof all.CommandFailedError);
  assert.deepEqual([failed.exitCode, failed.stderr], [3, "no\n"]);
  const late = await within(session.exec("sleep 60", { timeoutMs: 300 }).catch((error) => error));
  assert.ok(late instanceof all.CommandTimeoutError);
  let text = "";
  await session.exec("echo one; echo two", { onStdout: (chunk) => void (text += chunk) });
  assert.equal(text, "one\ntwo\n");
});

test("an abort ends a command with its daemons, and a signal reaches it", { skip }, async () => {
  await using all = await startAll();
  await using session = await all.connect(all.target);
  const controller = new AbortController();
  const reason = new Error("enough");
  let daemon = 0;
  const running = session.exec("setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; sleep 60", {
    signal: controller.signal,
    onStdout: (chunk) => {
      daemon = Number(chunk);
      controller.abort(reason);
    },
  });
  assert.equal(await within(running.catch((error: unknown) => error)), reason);
  assert.ok(daemon > 0 && !isAlive(daemon));
  const ended = await within(session.exec("sleep 60", {
    check: false,
    onStart: (command) => void command.signal("INT"),
  }));
  assert.equal(ended.signal, "SIGINT");
});

test("a takeover is told and answered by a release, and a watch shows it", { skip }, async () => {
  await using all = await startAll();
  await using session = await all.connect(all.target, { owner: "me/1" });
  await using other = await all.connect(all.target, { owner: "you/2" });
  let hasBegun = () => {};
  const began = new Promise<void>((resolve) => hasBegun = resolve);
  const watching = (async () => {
    for await (const { event } of session.watch("deploy")) {
      if (event === "state") hasBegun();
      if (event === "takeover") return;
    }
  })();
  await within(began);
  const lock = await session.claim("deploy", { onTakeover: () => void lock.release() });
  const takeover = { reason: "urgent", deadlineMs: 60_000 };
  await using taken = await within(other.claim("deploy", { takeover }));
  assert.deepEqual(taken.takenFrom, ["me/1"]);
  await within(watching);
});

test("a loss is told by the lock's signal, with its first cause", { skip }, async () => {
  await using all = await startAll();
  const session = await all.connect(all.target);
  const lock = await session.claim("deploy");
  for (const { pid } of all.sshd.sessions()) signalPid(pid, "SIGKILL");
  if (!lock.signal.aborted) await within(once(lock.signal, "abort"));
  assert.ok(lock.signal.reason instanceof all.LockLostError);
  assert.equal(lock.signal.reason.reason, "connection-closed");
  assert.equal(await session.available(), false);
  await session.close();
});

test("no host key is accepted in silence", { skip }, async () => {
  await using all = await startAll();
  const { hostFingerprint, ...unknown } = all.target;
  const refused = await all.connect(unknown).catch((error: unknown) => error);
  assert.ok(refused instanceof all.HostKeyError);
  assert.equal(refused.fingerprint, hostFingerprint);
});

test("a host that says nothing does not hang connect()", { skip }, async () => {
  const { connect, ConnectError } = await import(pathToFileURL(resolve(MODULE)).href) as Controller;
  const { createServer } = await import("node:net");
  const sockets = new Set<{ destroy(): void }>();
  const server = createServer((socket) => void sockets.add(socket.on("error", () => {})));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  const target = { host: "127.0.0.1", port, username: "nobody", acceptNewHostKeys: true };
  const failed = await within(connect(target, { connectTimeoutMs: 100 }).catch((e: unknown) => e));
  assert.ok(failed instanceof ConnectError);
  assert.equal(failed.kind, "timeout");
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
});
