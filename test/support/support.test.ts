import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { join } from "node:path";
import test from "node:test";
import { promisify } from "node:util";
import { childExit } from "./child.ts";
import { EventLog, until, WaitTimeoutError } from "./events.ts";
import { flock } from "./flock.ts";
import { startPrivateSshd } from "./private_sshd.ts";
import {
  freeze,
  isAlive,
  processesWithLockIn,
  readArgv,
  readStat,
  signalPid,
} from "./processes.ts";
import { requires } from "./requires.ts";
import { connectRpc, RpcError } from "./rpc_client.ts";
import { lockPath, shellLock } from "./shell_lock.ts";
import { makeLockDir, makeTempDir } from "./temp_dir.ts";

const run = promisify(execFile);

test("a private sshd lets its key in, and its stop ends each of its sessions", {
  skip: requires("sshd", "ssh", "ssh-keygen"),
}, async () => {
  await using dir = await makeTempDir();
  await using sshd = await startPrivateSshd({ dir: dir.path });
  await run("ssh", [...sshd.sshArgs, "true"]);
  const client = spawn("ssh", [...sshd.sshArgs, "echo $$; exec cat"], { stdio: "pipe" });
  const exit = childExit(client);
  const pid = Number(await new Promise((resolve) => client.stdout.once("data", resolve)));
  assert.ok(sshd.sessions().length > 0);
  assert.match(sshd.hostFingerprint, /^SHA256:[A-Za-z0-9+/]{43}$/);
  await sshd.log.waitFor((line) => line.startsWith("Accepted publickey"));
  await sshd.stop();
  assert.equal((await exit).code, 255);
  assert.deepEqual([pid, sshd.pid].filter(isAlive), []);
  assert.match(readFileSync(sshd.logPath, "utf8"), /Server listening/);
});

test("a private sshd can forbid streamlocal channels and accept environment variables", {
  skip: requires("sshd", "ssh", "ssh-keygen"),
}, async () => {
  await using dir = await makeTempDir();
  await using sshd = await startPrivateSshd({
    dir: dir.path,
    allowStreamLocal: false,
    acceptEnv: ["SSHLOCK_*"],
  });
  const destination = sshd.sshArgs.at(-1) as string;
  const options = sshd.sshArgs.slice(0, -1);
  const local = join(dir.path, "local.sock");
  const forward = [
    ...options,
    "-L",
    `${local}:${join(dir.path, "nobody.sock")}`,
    destination,
    "cat",
  ];
  const client = spawn("ssh", forward, { stdio: ["pipe", "pipe", "inherit"] });
  const exit = childExit(client);
  await until(() => existsSync(local), { what: "the client's end of the forwarding" });
  const stream = connect(local).resume();
  await sshd.log.waitFor((line) => line.includes("refused streamlocal port forward"));
  stream.destroy();
  client.kill("SIGKILL");
  await exit;
  const env = { ...process.env, SSHLOCK_TEST: "seen" };
  const args = [...options, "-o", "SendEnv=SSHLOCK_TEST", destination, "echo $SSHLOCK_TEST"];
  assert.equal((await run("ssh", args, { env })).stdout, "seen\n");
});

test("the shell protocol locks once, answers 124 the second time and 92 without a folder", {
  skip: requires("bash", "flock"),
}, async () => {
  await using dir = await makeLockDir();
  const first = await shellLock(dir.path, "deploy");
  assert.ok(first.kind === "locked");
  await using lock = first.lock;
  await until(() => readArgv(lock.holderPid)[0] === "session-lock-deploy");
  assert.deepEqual(readArgv(lock.holderPid), ["session-lock-deploy", "infinity"]);
  const second = await shellLock(dir.path, "deploy");
  assert.deepEqual(second, {
    kind: "contended",
    exitCode: 124,
    text: "Another session active:  deploy\n",
  });
  await lock.endShell();
  assert.equal((await shellLock(dir.path, "deploy")).kind, "contended");
  assert.deepEqual(processesWithLockIn(dir.path), [lock.holderPid]);
  await lock.end();
  const third = await shellLock(dir.path, "deploy");
  assert.ok(third.kind === "locked");
  await third.lock.end();
  assert.equal((await shellLock(join(dir.path, "missing"), "deploy")).kind, "no-file");
});

test("flock(1) and the shell protocol exclude each other; shared locks do not", {
  skip: requires("bash", "flock"),
}, async () => {
  await using dir = await makeLockDir();
  const path = lockPath(dir.path, "deploy");
  const shared = [await flock(path, { shared: true }), await flock(path, { shared: true })];
  assert.deepEqual(shared.map((outcome) => outcome.kind), ["held", "held"]);
  assert.equal((await flock(path)).kind, "contended");
  assert.equal((await shellLock(dir.path, "deploy")).kind, "contended");
  for (const outcome of shared) if (outcome.kind === "held") await outcome.holder.end();
  const shell = await shellLock(dir.path, "deploy");
  assert.ok(shell.kind === "locked");
  const waiting = flock(path, { waitMs: 10_000 });
  await shell.lock.end();
  const granted = await waiting;
  assert.ok(granted.kind === "held");
  signalPid(granted.holder.pid, "SIGKILL");
  await granted.holder.exit;
  const next = await flock(path, { waitMs: 10_000 });
  assert.ok(next.kind === "held");
  await next.holder.end();
  await assert.rejects(flock(join(dir.path, "no", "file")), /No such file/);
});

test("freeze() returns once every thread of the process has stopped", async () => {
  const child = spawn(process.execPath, ["-e", "for (;;);"], { stdio: "ignore" });
  const exit = childExit(child);
  assert.equal(await freeze(child.pid as number), true);
  assert.equal(readStat(child.pid as number)?.state, "T");
  signalPid(child.pid as number, "SIGKILL");
  assert.equal((await exit).signal, "SIGKILL");
  assert.equal(await freeze(child.pid as number), false);
});

test("the JSON-RPC client matches answers, keeps notifications and tells of the end", async () => {
  await using dir = await makeTempDir();
  const path = join(dir.path, "s");
  const server = await echoServer(path);
  const client = await connectRpc(path);
  assert.deepEqual(await client.request("echo", { a: 1 }), { a: 1 });
  await assert.rejects(
    client.request("fail"),
    (error: RpcError) => error.data.code === "contended",
  );
  assert.equal((await client.notification("note")).params.n, 1);
  assert.equal(client.messages.all.at(-1)?.raw, undefined);
  const notes: string[] = [];
  const reading = (async () => {
    for await (const note of client.notifications()) notes.push(note.method);
  })();
  await assert.rejects(client.request("hang up"), /cannot come/);
  await reading;
  assert.deepEqual(notes, ["note"]);
  server.close();
});

test("a wait that fails says what was waited for and what came instead", async () => {
  const log = new EventLog<string>();
  log.push("other");
  const wait = log.waitFor((e) => e === "it", { what: "the thing", deadlineMs: 5 });
  await assert.rejects(wait, {
    name: "WaitTimeoutError",
    message: /the thing did not come.*\n.*other/,
  });
  const later = log.waitFor((e) => e === "it");
  log.push("it");
  assert.equal(await later, "it");
  await assert.rejects(until(() => false, { what: "a state", deadlineMs: 5 }), WaitTimeoutError);
});

test("requires() names what is missing", () => {
  assert.equal(requires("sh", "/"), undefined);
  assert.equal(requires("no-such-tool"), "needs no-such-tool, which is not installed");
  assert.equal(requires("/no/file"), "needs /no/file, which does not exist");
});

test("a temporary folder is gone after its block", async () => {
  let path = "";
  {
    await using dir = await makeTempDir();
    path = dir.path;
    assert.ok(existsSync(path));
  }
  assert.ok(!existsSync(path));
});

function echoServer(path: string): Promise<Server> {
  const server = createServer((socket) => {
    socket.setEncoding("utf8");
    socket.on("data", (text) => {
      for (const line of String(text).trim().split("\n")) {
        const { id, method, params } = JSON.parse(line);
        if (method === "hang up") return socket.end();
        const error = { code: -32001, message: "no", data: { code: "contended" } };
        const answer = method === "fail" ? { id, error } : { id, result: params };
        socket.write(`{"method":"note","params":{"n":${id}}}\n${JSON.stringify(answer)}\n`.slice(
          id === 1 ? 0 : JSON.stringify({ method: "note", params: { n: id } }).length + 1,
        ));
      }
    });
  });
  return new Promise((resolve) => server.listen(path, () => resolve(server)));
}
