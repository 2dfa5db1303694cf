import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { isAlive, killAndConfirm, readStat, signalPid } from "../support/processes.ts";
import { requires, root } from "../support/requires.ts";
import { connectRpc, RpcError } from "../support/rpc_client.ts";
import { claim, startHost } from "./leftovers_host.ts";

const skip = requires("sshd", "ssh", "ssh-keygen", root);

test("a lock goes to the next only when a killed session's processes are gone", {
  skip,
}, async (t) => {
  await using host = await startHost();
  // nohup, setsid, a double fork, one that is stopped, and one that ignores TERM.
  const first = host.open(`
    nohup sleep 1000 >/dev/null 2>&1 & echo $! >$DIR/nohup
    setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >$DIR/setsid
    (setsid sh -c 'sleep 1000 & echo $! >$1/forked' x $DIR </dev/null >/dev/null 2>&1 &)
    sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >$DIR/stopped; kill -STOP $!
    sh -c 'trap "" TERM; while :; do sleep 0.05; done' </dev/null >/dev/null 2>&1 &
    echo $! >$DIR/stubborn
    env -u SSH_CONNECTION setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >$DIR/apart`);
  const names = ["nohup", "setsid", "forked", "stopped", "stubborn"];
  const token = await claim(first, "a", { name: "x", graceMs: 300 });
  const pids = await Promise.all(names.map((name) => host.pid(name)));
  const apart = await host.pid("apart");
  t.after(() => signalPid(apart, "SIGKILL"));

  await first.kill();
  await using second = await host.agent.client("b");
  const refused: RpcError = await second.request("claim", { name: "x" }).then(
    () => assert.fail("the lock was handed over beside living processes"),
    (error) => error,
  );
  assert.equal(refused.data?.code, "contended");

  const next = await second.request<{ token: number }>("claim", { name: "x", waitMs: 20_000 });
  const alive = pids.filter((pid) => isAlive(pid) && readStat(pid)?.state !== "Z");
  assert.deepEqual(alive, [], "leftovers lived when the next claim was granted");
  assert.ok(next.token > token);
  assert.ok(isAlive(apart), "what detached on purpose stays");
});

test("status shows an ending session and what it waits for; drain waits and kills nothing", {
  skip,
}, async () => {
  await using host = await startHost();
  const first = host.open(`nohup sleep 1000 >/dev/null 2>&1 & echo $! >$DIR/work`);
  await claim(first, "a", { name: "x", onEnd: "drain", purpose: "long work" });
  const work = await host.pid("work");
  await first.kill();
  await using watcher = await host.agent.client("w");
  const holder = await until(async () => {
    const { locks } = await watcher.request<Status>("status", { name: "x" });
    const [holder] = locks[0]!.holders;
    return holder?.awaiting?.some(({ pid }) => pid === work) === true ? holder : undefined;
  }, { what: "an ending session that waits for its work" });
  assert.equal(holder.state, "ending");
  assert.ok(isAlive(work), "drain kills nothing");
  signalPid(work, "SIGKILL");
  await watcher.request("claim", { name: "x", waitMs: 10_000 });
});

test("a session whose sshd was left by the one that listens is still its sshd's", {
  skip,
}, async () => {
  await using host = await startHost();
  const first = host.open(`
    echo $PPID >$DIR/sshd
    setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >$DIR/left`);
  const [sshd, left] = [await host.pid("sshd"), await host.pid("left")];
  // As when it is restarted; where systemd listens, it was never there.
  await killAndConfirm(host.sshd.pid);
  await claim(first, "a", { name: "x", graceMs: 300 });
  signalPid(sshd, "SIGKILL");
  await using second = await host.agent.client("b");
  await second.request("claim", { name: "x", waitMs: 20_000 });
  assert.equal(isAlive(left), false, "a leftover lived when the next claim was granted");
});

test("a break ends what a session that is ending waits for", { skip }, async () => {
  await using host = await startHost();
  const first = host.open(`nohup sleep 1000 >/dev/null 2>&1 & echo $! >$DIR/work`);
  await claim(first, "a", { name: "x", onEnd: "drain", graceMs: 60_000 });
  const work = await host.pid("work");
  await first.kill();
  await using second = await host.agent.client("b");
  const waiting = second.request("claim", { name: "x", waitMs: 60_000 }, 60_000);
  await until(async () => {
    const { locks } = await second.request<Status>("status", { name: "x" });
    return locks[0]!.holders[0]?.awaiting?.some(({ pid }) => pid === work);
  }, { what: "an ending session that waits for its work" });
  assert.ok(isAlive(work));
  await second.request("break", { name: "x", reason: "it hangs" });
  await waiting;
  assert.equal(isAlive(work), false);
});

test("a lock file that is replaced while its session ends hands the lock to nobody sooner", {
  skip,
}, async () => {
  await using host = await startHost();
  const first = host.open(`nohup sleep 1000 >/dev/null 2>&1 & echo $! >$DIR/work`);
  await claim(first, "a", { name: "x", onEnd: "drain", parkMs: 60_000 });
  const work = await host.pid("work");
  await first.kill();
  await using second = await host.agent.client("b");
  const isEnding = async () => {
    const { locks } = await second.request<Status>("status", { name: "x" });
    return locks[0]!.holders[0]?.state === "ending";
  };
  await until(isEnding, { what: "a session that is ending" });
  unlinkSync(join(host.agent.dirs.lockDir, "session-lock-x"));
  const refused = await second.request("claim", { name: "x" }).then(() => undefined, (e) => e);
  assert.equal((refused as RpcError | undefined)?.data?.code, "contended");
  const waiting = second.request("claim", { name: "x", waitMs: 60_000 });
  await second.notification("queued");
  assert.ok(await isEnding());
  assert.ok(isAlive(work));
  signalPid(work, "SIGKILL");
  await waiting;
  assert.equal(isAlive(work), false);
});

test("leave frees the lock at once and looks after nothing", { skip }, async (t) => {
  await using host = await startHost();
  const first = host.open(`nohup sleep 1000 >/dev/null 2>&1 & echo $! >$DIR/work`);
  await claim(first, "a", { name: "x", onEnd: "leave" });
  const work = await host.pid("work");
  t.after(() => signalPid(work, "SIGKILL"));
  await first.kill();
  await using second = await host.agent.client("b");
  await second.request("claim", { name: "x", waitMs: 10_000 });
  assert.ok(isAlive(work));
});

test("leave ends a silent session's sshd all the same, before the lock goes on", {
  skip,
}, async (t) => {
  await using host = await startHost();
  const first = host.open(`echo $PPID >$DIR/sshd
    nohup sleep 1000 >/dev/null 2>&1 & echo $! >$DIR/work`);
  await first.client.request("hello", { protocol: 1, owner: "a", silenceMs: 300 });
  await first.client.request("claim", { name: "x", onEnd: "leave" });
  const [sshd, work] = [await host.pid("sshd"), await host.pid("work")];
  t.after(() => signalPid(work, "SIGKILL"));
  await using second = await host.agent.client("b");
  await second.request("claim", { name: "x", waitMs: 20_000 });
  assert.equal(isAlive(sshd), false, "who was silent could still act");
  assert.ok(isAlive(work));
});

test("an agent that died before it knew a session's marks is no way out for its processes", {
  skip,
}, async () => {
  await using host = await startHost();
  const { dirs } = host.agent;
  // Its shell goes on when the agent's end has ended the bridge.
  const session = host.open(
    "",
    "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >$DIR/work; exec sleep 1000",
  );
  await claim(session, "a", { name: "x", graceMs: 100 });
  await host.agent.kill();
  // As its record is until the agent has looked: that comes after the answer.
  const path = join(dirs.runtimeDir, "locks", "x.json");
  const record = JSON.parse(readFileSync(path, "utf8"));
  const [grant] = record.ownerships[0].grants;
  const { root, uid } = grant.session.marks;
  grant.session.marks = { root, uid };
  writeFileSync(path, JSON.stringify(record));
  await using agent = await startAgent({ dirs });
  const work = await host.pid("work");
  await session.kill();
  await using second = await agent.client("b");
  await second.request("claim", { name: "x", waitMs: 20_000 });
  assert.equal(isAlive(work), false, "a leftover lived when the next claim was granted");
});

test("a session whose client has run away from its sshd ends with that", {
  skip: skip ?? requires("socat"),
}, async () => {
  await using host = await startHost();
  const line = (id: number, method: string, params: object) =>
    JSON.stringify({ jsonrpc: "2.0", id, method, params });
  // Neither the end of its terminal nor of its input reaches it, and it goes on with its heartbeats.
  const first = host.open(`echo $PPID >$DIR/sshd; mkfifo $DIR/in
    setsid socat - UNIX-CONNECT:${host.agent.dirs.socket} <>$DIR/in >/dev/null 2>&1 &
    echo $! >$DIR/client
    setsid sh -c 'while sleep 0.1; do echo "$1"; done' x '${line(3, "ping", {})}' \
      1<>$DIR/in </dev/null 2>/dev/null &
    echo '${line(1, "hello", { protocol: 1, owner: "a" })}' >$DIR/in
    echo '${line(2, "claim", { name: "x", graceMs: 100 })}' >$DIR/in`);
  const [sshd, client] = [await host.pid("sshd"), await host.pid("client")];
  await host.agent.events.waitFor(({ event }) => event === "lock-granted");
  await killAndConfirm(sshd);
  await using second = await host.agent.client("b");
  await second.request("claim", { name: "x", waitMs: 20_000 });
  assert.equal(isAlive(client), false);
  await first.exit;
});

test("a faked SSH_CONNECTION makes nobody else's process a leftover", { skip }, async (t) => {
  await using host = await startHost();
  const first = host.open(`echo "$SSH_CONNECTION" >$DIR/connection; echo $$ >$DIR/shell`);
  await claim(first, "a", { name: "x", graceMs: 100 });
  await host.pid("shell");
  const status = await host.agent.client("w");
  const connection = readFileSync(`/proc/${await host.pid("shell")}/environ`, "latin1")
    .split("\0").find((entry) => entry.startsWith("SSH_CONNECTION="))!.slice(15);
  // Another user's process with the victim's mark.
  const stranger = spawn("setpriv", ["--reuid", "4711", "--clear-groups", "sleep", "1000"], {
    env: { PATH: process.env.PATH, SSH_CONNECTION: connection },
    stdio: "ignore",
  });
  t.after(() => stranger.kill("SIGKILL"));
  // A process of another SSH session of the same user, with the victim's mark.
  const second = host.open(
    `SSH_CONNECTION='${connection}' sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >$DIR/faked`,
  );
  await claim(second, "b", { name: "y" });
  const faked = await host.pid("faked");

  await first.kill();
  await status.request("claim", { name: "x", waitMs: 10_000 });
  assert.ok(isAlive(stranger.pid!), "another user's process was ended");
  assert.ok(isAlive(faked), "a process of another session was ended");
  await status.close();
  await second.kill();
});

test("a killed bridge is no end: the session keeps its lock and resumes", { skip }, async () => {
  await using host = await startHost();
  const session = host.open("", "exec sleep 1000");
  const { session: { secret } } = await session.client.request<Hello>("hello", {
    protocol: 1,
    owner: "a",
  });
  const { token } = await session.client.request<{ token: number }>("claim", { name: "x" });
  const { locks: [lock] } = await session.client.request<Status>("status", { name: "x" });
  signalPid(lock!.holders[0]!.peerPid!, "SIGKILL");
  await using other = await host.agent.client("b");
  const refused = await other.request("claim", { name: "x" }).then(() => undefined, (e) => e);
  assert.equal((refused as RpcError | undefined)?.data?.code, "contended");
  // Only a process of the same SSH session may resume it, whoever knows the secret.
  const stolen = await other.request("hello", { protocol: 1, resume: secret }).then(
    () => undefined,
    (error) => error,
  );
  assert.ok(stolen instanceof RpcError);
  await until(async () => {
    const { locks } = await other.request<Status>("status", { name: "x" });
    return locks[0]!.holders[0]!.state === "detached";
  }, { what: "a detached session" });
  assert.ok(token > 0);
  await session.kill();
  // With its SSH session gone it ends, and what it had started with it.
  await other.request("claim", { name: "x", waitMs: 20_000 });
});

test("a session that was broken without a connection is told why when it comes back", {
  skip,
}, async () => {
  await using host = await startHost();
  const session = host.open("", "exec sleep 1000");
  const { session: { secret } } = await session.client.request<Hello>("hello", {
    protocol: 1,
    owner: "a",
  });
  await session.client.request("claim", { name: "x" });
  const { locks: [lock] } = await session.client.request<Status>("status", { name: "x" });
  signalPid(lock!.holders[0]!.peerPid!, "SIGKILL");
  await host.agent.events.waitFor(({ event }) => event === "session-detached");
  await using other = await host.agent.client("b");
  await other.request("break", { name: "x", reason: "stuck" });
  await other.request("claim", { name: "x", waitMs: 20_000 });
  await using back = await connectRpc(host.agent.dirs.socket);
  const refused = await back.request("hello", { protocol: 1, resume: secret })
    .then(() => undefined, (error) => error);
  assert.ok(refused instanceof RpcError);
  const { code, reason, detail } = refused.data;
  assert.deepEqual({ code, reason }, { code: "no-session", reason: "broken" });
  assert.match(detail as string, /^broken by .+: stuck$/);
});

interface Status {
  locks: { holders: { state?: string; peerPid?: number; awaiting?: { pid: number }[] }[] }[];
}

interface Hello {
  session: { secret: string };
}
