import assert from "node:assert/strict";
import { once } from "node:events";
import { chmodSync, existsSync, mkdirSync, rmdirSync, symlinkSync, writeFileSync } from "node:fs";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import test, { after, before } from "node:test";

import {
  AgentError,
  AgentMissingError,
  LockContendedError,
  LockLostError,
} from "../../controller/errors.ts";
import type { ForeignHolder } from "../../protocol/messages.ts";
import { until, within } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import {
  isAlive,
  killAndConfirm,
  processesWithLockIn,
  readArgv,
  signalPid,
} from "../support/processes.ts";
import { findTool, requires } from "../support/requires.ts";
import { shellLock } from "../support/shell_lock.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import { type Host, startHost } from "./controller_host.ts";

const skip = whyNoSshd() ?? requires("bash", "flock");
let host: Host;

before(async () => {
  if (skip === undefined) host = await startHost({ agent: false });
});
after(() => host?.[Symbol.asyncDispose]());

const connect = () => host.connect({ transport: "shell" });
const lockPath = (name: string) => join(host.lockDir, `session-lock-${name}`);

test(
  "its holder looks like that of the shell protocol, and it alone has the lock",
  { skip },
  async () => {
    await using session = await connect();
    await using lock = await session.claim("deploy");
    // It is told between fork and exec; the lock is its already.
    await until(() => readArgv(lock.holderPid)[0] === "session-lock-deploy", { what: "its name" });
    assert.deepEqual(readArgv(lock.holderPid), ["session-lock-deploy", "infinity"]);
    // The reader of the channel is started with the descriptor too, and closes it first of all.
    await until(() => processesWithLockIn(host.lockDir).length === 1, {
      what: "one process with 999",
    });
    assert.deepEqual(processesWithLockIn(host.lockDir), [lock.holderPid]);
    assert.match(
      execFileSync("pgrep", ["-af", "session-lock-deploy infinity"], { encoding: "utf8" }),
      new RegExp(`^${lock.holderPid} session-lock-deploy infinity$`, "m"),
    );
    assert.deepEqual([lock.token, lock.way, lock.shared], [undefined, "shell", false]);
  },
);

test("it and the shell protocol exclude each other", { skip }, async () => {
  await using session = await connect();
  const lock = await session.claim("both");
  assert.equal((await shellLock(host.lockDir, "both")).kind, "contended");
  await lock.release();
  const outcome = await shellLock(host.lockDir, "both");
  assert.ok(outcome.kind === "locked");
  await until(() => readArgv(outcome.lock.holderPid)[0] === "session-lock-both");
  await outcome.lock.endShell();
  await assert.rejects(session.claim("both"), (error: LockContendedError) => {
    assert.ok(error instanceof LockContendedError);
    const { pid, uid, command } = error.holder as ForeignHolder;
    assert.deepEqual([pid, uid, command], [
      outcome.lock.holderPid,
      process.getuid?.(),
      "session-lock-both infinity",
    ]);
    return true;
  });
  await outcome.lock.end();
});

test("it waits as long as it is told, and no longer", { skip }, async () => {
  await using session = await connect();
  const outcome = await flock(lockPath("waits"));
  assert.ok(outcome.kind === "held");
  await assert.rejects(session.claim("waits", { waitMs: 50 }), (error: LockContendedError) => {
    return error instanceof LockContendedError && error.waitedMs >= 50;
  });
  const waiting = session.claim("waits", { waitMs: 20_000 });
  // A second open file description of the same file: the waiting one.
  await until(() => processesWithLockIn(host.lockDir).length > 0, { what: "the waiting flock" });
  await outcome.holder.end();
  await using lock = await within(waiting);
  assert.ok(lock.held);
});

test("a release frees the lock before it returns", { skip }, async () => {
  await using session = await connect();
  for (let i = 0; i < 3; i++) {
    const lock = await session.claim("again");
    await lock.release();
    assert.equal(isAlive(lock.holderPid), false);
    const outcome = await flock(lockPath("again"));
    assert.ok(outcome.kind === "held");
    await outcome.holder.end();
  }
});

test(
  "the end of the connection ends the holder, unlike in the shell protocol",
  { skip },
  async () => {
    const session = await connect();
    const lock = await session.claim("leak");
    for (const { pid } of host.sshd.sessions()) signalPid(pid, "SIGKILL");
    await within(once(lock.signal, "abort"));
    assert.equal((lock.signal.reason as LockLostError).reason, "connection-closed");
    await until(() => !isAlive(lock.holderPid), { what: "the end of the holder" });
    await session.close();
  },
);

test("a holder that is ended by hand is a loss, and the lock is free", { skip }, async () => {
  await using session = await connect();
  const lock = await session.claim("by-hand");
  await killAndConfirm(lock.holderPid);
  if (!lock.signal.aborted) await within(once(lock.signal, "abort"));
  assert.equal((lock.signal.reason as LockLostError).reason, "holder-failed");
  const outcome = await flock(lockPath("by-hand"));
  assert.ok(outcome.kind === "held");
  await outcome.holder.end();
});

test("an aborted claim leaves nothing behind", { skip }, async () => {
  await using session = await connect();
  const outcome = await flock(lockPath("aborted"));
  assert.ok(outcome.kind === "held");
  const controller = new AbortController();
  const waiting = session.claim("aborted", { waitMs: 500, signal: controller.signal });
  await until(() => processesWithLockIn(host.lockDir).length > 0, { what: "the waiting flock" });
  controller.abort(new Error("enough"));
  await assert.rejects(within(waiting), { message: "enough" });
  await outcome.holder.end();
  await until(() => processesWithLockIn(host.lockDir).length === 0, {
    what: "the end of the waiter",
  });
});

test("what it cannot do is refused and not faked", { skip }, async () => {
  await using session = await connect();
  await assert.rejects(session.claim("x", { shared: true }), { name: "AgentError" });
  for (const name of ["../x", "$(id)", "", "a b"]) {
    await assert.rejects(session.claim(name), { name: "AgentError", code: "bad-name" });
  }
});

test("a lock file that is none is refused with the reason", { skip }, async () => {
  await using session = await connect();
  mkdirSync(lockPath("folder"));
  execFileSync("mkfifo", [lockPath("fifo")]);
  for (const name of ["folder", "fifo"]) {
    await assert.rejects(within(session.claim(name)), (error: AgentError) => {
      assert.equal(error.code, "lock-file");
      return error.message.includes("it is not a regular file");
    });
  }
  rmdirSync(lockPath("folder"));
  const missing = await host.connect({ transport: "shell", lockDir: "/dev/shm/no/such" });
  await assert.rejects(missing.claim("x"), {
    code: "lock-file",
    message: /No such file or directory/,
  });
  await missing.close();
});

test("a lock file's content is left alone", { skip }, async () => {
  const { readFileSync } = await import("node:fs");
  writeFileSync(lockPath("content"), "mine");
  await using session = await connect();
  await using _lock = await session.claim("content");
  assert.equal(readFileSync(lockPath("content"), "utf8"), "mine");
});

test("a host without flock(1) is not taken for a contended one", { skip }, async () => {
  await using dir = await makeTempDir();
  const bin = join(dir.path, "bin");
  mkdirSync(bin);
  chmodSync(dir.path, 0o755);
  for (const tool of ["sh", "bash", "sleep"]) {
    symlinkSync(findTool(tool) as string, join(bin, tool));
  }
  await using bare = await startHost({
    agent: false,
    extraConfig: [`ForceCommand PATH=${bin}; eval "$SSH_ORIGINAL_COMMAND"`],
  });
  await using session = await bare.connect({ transport: "shell" });
  await assert.rejects(session.claim("x"), (error: AgentMissingError) => {
    return error.attempts[0]?.problem === "flock(1) is not installed";
  });
  // It is looked for anew at each claim.
  symlinkSync(findTool("flock") as string, join(bin, "flock"));
  await using lock = await session.claim("x");
  assert.ok(lock.held);
});

test("the flock(1) of busybox locks, and says that it cannot wait", {
  skip: skip ?? whyNoBusyboxFlock(),
}, async () => {
  await using dir = await makeTempDir();
  const bin = join(dir.path, "bin");
  mkdirSync(bin);
  chmodSync(dir.path, 0o755);
  for (const tool of ["sh", "bash", "sleep"]) {
    symlinkSync(findTool(tool) as string, join(bin, tool));
  }
  symlinkSync(findTool("busybox") as string, join(bin, "flock"));
  await using bare = await startHost({
    agent: false,
    extraConfig: [`ForceCommand PATH=${bin}; eval "$SSH_ORIGINAL_COMMAND"`],
  });
  await using session = await bare.connect({ transport: "shell" });
  await using lock = await session.claim("x");
  await assert.rejects(session.claim("x"), LockContendedError);
  await assert.rejects(session.claim("x", { waitMs: 10 }), { message: /cannot wait/ });
  assert.ok(lock.held);
});

test("where sleep does not bear another name, a shell holds the lock", {
  skip: skip ?? requires("busybox"),
}, async () => {
  await using dir = await makeTempDir();
  const bin = join(dir.path, "bin");
  mkdirSync(bin);
  chmodSync(dir.path, 0o755);
  for (const tool of ["sh", "bash", "flock"]) {
    symlinkSync(findTool(tool) as string, join(bin, tool));
  }
  symlinkSync(findTool("busybox") as string, join(bin, "sleep"));
  await using bare = await startHost({
    agent: false,
    extraConfig: [`ForceCommand PATH=${bin}; eval "$SSH_ORIGINAL_COMMAND"`],
  });
  await using session = await bare.connect({ transport: "shell" });
  const lock = await session.claim("x");
  await until(() => readArgv(lock.holderPid)[0] === "session-lock-x", { what: "its name" });
  assert.ok(existsSync(`/proc/${lock.holderPid}/fd/999`));
  assert.equal((await shellLock(bare.lockDir, "x")).kind, "contended");
  await lock.release();
  const outcome = await flock(join(bare.lockDir, "session-lock-x"));
  assert.ok(outcome.kind === "held");
  await outcome.holder.end();
});

test("status() lists what the kernel has locked", { skip }, async () => {
  await using session = await connect();
  await using lock = await session.claim("listed");
  const outcome = await flock(lockPath("by-flock"), { shared: true });
  assert.ok(outcome.kind === "held");
  writeFileSync(lockPath("free"), "");
  const { locks, notes } = await session.status();
  const listed = locks.find(({ name }) => name === "listed")?.holders[0] as ForeignHolder;
  assert.deepEqual([listed.pid, listed.shared], [lock.holderPid, false]);
  const other = locks.find(({ name }) => name === "by-flock")?.holders[0] as ForeignHolder;
  assert.deepEqual([other.pid, other.shared], [outcome.holder.pid, true]);
  assert.ok(!locks.some(({ name }) => name === "free"));
  assert.equal(notes?.length, 1);
  await outcome.holder.end();
});

function whyNoBusyboxFlock(): string | undefined {
  const missing = requires("busybox");
  if (missing !== undefined) return missing;
  const applets = execFileSync("busybox", ["--list"], { encoding: "utf8" }).split("\n");
  return applets.includes("flock") ? undefined : "needs a busybox with flock";
}
