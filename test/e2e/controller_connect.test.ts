import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import test from "node:test";
import { promisify } from "node:util";

import { connect } from "../../controller/connect.ts";
import { ConnectError, HostKeyError } from "../../controller/errors.ts";
import { forgetHostKeys, type HostKey } from "../../controller/host_key.ts";
import { childExit } from "../support/child.ts";
import { within } from "../support/events.ts";
import { startPrivateSshd, whyNoSshd } from "../support/private_sshd.ts";
import { signalPid } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import { type Host, startHost } from "./controller_host.ts";

const run = promisify(execFile);
const skip = whyNoSshd();

/** A host without agent: these tests end before anybody asks for one. */
const startBareHost = () => startHost({ agent: false });

function keylessTarget({ target }: Host) {
  const { hostFingerprint: _, ...rest } = target;
  return rest;
}

test(
  "connect() rejects before authentication when nothing vouches for the host key",
  { skip },
  async () => {
    await using host = await startBareHost();
    await assert.rejects(connect(keylessTarget(host)), (error: HostKeyError) => {
      assert.ok(error instanceof HostKeyError);
      assert.equal(error.problem, "not-vouched-for");
      assert.equal(error.fingerprint, host.sshd.hostFingerprint);
      assert.ok(error.message.includes(host.sshd.hostFingerprint));
      return true;
    });
    // The server's own record of the connection's end: no user was ever named.
    await host.sshd.log.waitFor((line) =>
      /Connection (closed|reset) by|Received disconnect/.test(line)
    );
    assert.ok(!host.sshd.log.all.some((line) => /publickey|user root|user=/.test(line)));
  },
);

test("hostVerifier is shown the key, may take its time, and decides", { skip }, async () => {
  await using host = await startBareHost();
  const seen: HostKey[] = [];
  const hostVerifier = async (key: HostKey) => {
    seen.push(key);
    await new Promise((resolve) => setImmediate(resolve));
    return true;
  };
  await using session = await connect({ ...keylessTarget(host), hostVerifier });
  assert.equal((await session.exec("echo hi")).stdout, "hi\n");
  assert.equal(seen.length, 1);
  assert.equal(seen[0]?.fingerprint, host.sshd.hostFingerprint);
  const line = `${seen[0]?.type} ${Buffer.from(seen[0]?.key as Uint8Array).toString("base64")}`;
  assert.equal(line, host.sshd.hostKeyLine);
  const refusing = connect({ ...keylessTarget(host), hostVerifier: () => false });
  await assert.rejects(refusing, { name: "HostKeyError", problem: "refused" });
});

test("another fingerprint than the expected is refused", { skip }, async () => {
  await using host = await startBareHost();
  const hostFingerprint = `SHA256:${"A".repeat(43)}`;
  const connecting = connect({ ...host.target, hostFingerprint });
  await assert.rejects(connecting, { name: "HostKeyError", problem: "changed", kind: "host-key" });
});

test("acceptNewHostKeys lets a host in and knows it again", { skip }, async () => {
  await using host = await startBareHost();
  forgetHostKeys();
  const target = { ...keylessTarget(host), acceptNewHostKeys: true };
  for (let i = 0; i < 2; i++) {
    await using session = await connect(target);
    assert.ok(await session.available());
  }
  forgetHostKeys();
});

test("a key that the host does not accept is an authentication failure", { skip }, async () => {
  await using host = await startBareHost();
  await using dir = await makeTempDir();
  const other = await startPrivateSshd({ dir: dir.path });
  await other.stop();
  const connecting = connect({ ...host.target, privateKey: other.privateKey });
  await assert.rejects(connecting, (error: ConnectError) => {
    assert.equal(error.kind, "authentication");
    assert.doesNotMatch(`${error.message}${error.stack}${JSON.stringify(error)}`, /PRIVATE KEY/);
    return error instanceof ConnectError;
  });
  const bad = connect({ ...host.target, privateKey: "not a key" });
  await assert.rejects(bad, { kind: "authentication" });
  const { privateKey: _, ...without } = host.target;
  await assert.rejects(connect(without), { kind: "authentication" });
});

test("connect() uses an ssh-agent when it is told to, and never by itself", {
  skip: skip ?? requires("ssh-agent", "ssh-add"),
}, async () => {
  await using host = await startBareHost();
  await using dir = await makeTempDir();
  const socket = join(dir.path, "ssh-agent.sock");
  const keys = spawn("ssh-agent", ["-D", "-a", socket], { stdio: ["ignore", "pipe", "ignore"] });
  const exit = childExit(keys);
  const env = { ...process.env, SSH_AUTH_SOCK: socket };
  const before = process.env.SSH_AUTH_SOCK;
  try {
    await once(keys.stdout, "data");
    await run("ssh-add", ["-q", host.sshd.privateKeyPath], { env });
    const { privateKey: _, ...without } = host.target;
    await using session = await connect({ ...without, sshAgent: socket });
    assert.equal((await session.exec("echo in")).stdout, "in\n");
    process.env.SSH_AUTH_SOCK = socket;
    await assert.rejects(connect(without), { kind: "authentication" });
  } finally {
    if (before === undefined) delete process.env.SSH_AUTH_SOCK;
    else process.env.SSH_AUTH_SOCK = before;
    signalPid(keys.pid as number, "SIGKILL");
    await exit;
  }
});

test("a port where nobody listens is refused at once", async () => {
  const { port, server } = await listen(() => {});
  await new Promise((resolve) => server.close(resolve));
  await assert.rejects(connect(targetAt(port)), { name: "ConnectError", kind: "refused" });
});

test("a host that accepts and says nothing does not hang connect()", async () => {
  for (const greeting of ["", "SSH-2.0-Silent\r\n"]) {
    const { port, close } = await listen((socket) => void socket.write(greeting));
    const connecting = connect(targetAt(port), { connectTimeoutMs: 100 });
    await assert.rejects(within(connecting), (error: ConnectError) => {
      assert.equal(error.kind, "timeout");
      return error.message.includes("no answer within 0.1 s");
    });
    await close();
  }
});

test("an abort ends connect() with its reason", async () => {
  const { port, close } = await listen(() => {});
  const controller = new AbortController();
  const connecting = connect(targetAt(port), { signal: controller.signal });
  const reason = new Error("changed my mind");
  controller.abort(reason);
  await assert.rejects(within(connecting), reason);
  await assert.rejects(connect(targetAt(port), { signal: controller.signal }), reason);
  await close();
});

test("a host that hangs up, or does not speak SSH, is an error that says so", async () => {
  const hangUp = await listen((socket) => void socket.end());
  await assert.rejects(within(connect(targetAt(hangUp.port))), { kind: "closed" });
  await hangUp.close();
  const web = await listen((socket) => void socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
  await assert.rejects(within(connect(targetAt(web.port))), { name: "ConnectError" });
  await web.close();
});

test(
  "available() is true while the host answers, and false when it does not or is gone",
  { skip },
  async () => {
    await using host = await startBareHost();
    await using session = await host.connect();
    assert.equal(await session.available(), true);
    const [sshd] = host.sshd.sessions();
    signalPid(sshd?.pid as number, "SIGSTOP");
    assert.equal(await session.available({ timeoutMs: 50 }), false);
    signalPid(sshd?.pid as number, "SIGCONT");
    assert.equal(await session.available(), true);
    signalPid(sshd?.pid as number, "SIGKILL");
    await within(once(session.lossSignal, "abort"));
    assert.ok(session.lossSignal.reason instanceof ConnectError);
    assert.equal(await session.available(), false);
    await assert.rejects(session.exec("true"), ConnectError);
    assert.equal(session.isOpen, false);
  },
);

test("keepalives end a connection whose host no longer answers", { skip }, async () => {
  await using host = await startBareHost();
  const session = await host.connect({ keepaliveMs: 20 });
  const running = session.exec("exec sleep 60");
  const ended = assert.rejects(running, (error: ConnectError) => error.kind === "timeout");
  for (const { pid } of host.sshd.sessions()) signalPid(pid, "SIGSTOP");
  await within(once(session.lossSignal, "abort"));
  assert.equal((session.lossSignal.reason as ConnectError).kind, "timeout");
  await within(ended);
  assert.ok(await within(session.closed) instanceof ConnectError);
});

test("a closed session says so, and closes once", { skip }, async () => {
  await using host = await startBareHost();
  const session = await host.connect();
  await Promise.all([session.close(), session.close()]);
  await session.close();
  assert.equal(session.lossSignal.aborted, false);
  await assert.rejects(session.exec("true"), { name: "ConnectError", kind: "closed" });
  await assert.rejects(session.claim("deploy"), { name: "ConnectError", kind: "closed" });
  const kinds = host.events.map(({ event }) => event);
  assert.deepEqual(kinds.filter((kind) => kind !== "command"), ["connect", "disconnect"]);
});

function targetAt(port: number) {
  return { host: "127.0.0.1", port, username: "nobody", password: "x", acceptNewHostKeys: true };
}

async function listen(
  onConnection: (socket: Socket) => void,
): Promise<{ port: number; server: Server; close(): Promise<void> }> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    onConnection(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  };
  return { port: (server.address() as AddressInfo).port, server, close };
}
