import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { connect, LockLostError } from "../../controller/mod.ts";
import { until } from "../support/events.ts";
import { shellProtocol } from "../support/shell_lock.ts";
import { openBridged } from "../support/ssh_session.ts";
import { describeBaseRoot } from "./support/base_root.ts";
import { type BootedHost, whyNoHosts } from "./support/booted_host.ts";
import {
  AGENT,
  assertLocked,
  bootInstalledHost,
  cgroupOf,
  NOTES,
  pidsOf,
} from "./support/installed_host.ts";

const skip = await whyNoHosts();
let host: BootedHost;

before(async () => {
  if (skip === undefined) host = await bootInstalledHost();
});
after(() => host?.[Symbol.asyncDispose]());

for (const kills of ["no", "yes"]) {
  test(`with KillUserProcesses=${kills} a lock outlives others' logouts and ends with its own`, {
    skip,
  }, async (t) => {
    t.diagnostic(describeBaseRoot());
    await setLogind("kill", `KillUserProcesses=${kills}`);
    await using other = await connect(host.target("alice"), { owner: "other" });
    await other.exec("nohup sleep 1004 >/dev/null 2>&1 </dev/null &");
    // By ancestry and environment; by nothing but its logind scope; detached on purpose.
    const prelude = `nohup sleep 1001 >/dev/null 2>&1 </dev/null &
      (env -i setsid sleep 1002 >/dev/null 2>&1 </dev/null &)
      systemd-run --user --quiet sh -c "exec sleep 1003"`;
    const first = openBridged({ sshArgs: host.sshArgs("alice") }, prelude, [AGENT, "bridge"]);
    await first.client.request("hello", { protocol: 1, client: "test", owner: "first" });
    const lock = await first.client.request<{ token: number; holderPid: number }>("claim", {
      name: "x",
      graceMs: 2_000,
    });
    const [apart] = await untilRuns("sleep 1002");
    await untilRuns("sleep 1003");
    await assertKnownByScopeOnly(apart!);
    t.diagnostic(
      `audit session id of a leftover: ${await host.sh(`cat /proc/${apart}/sessionid`)}`,
    );
    assert.equal(await cgroupOf(host, lock.holderPid), "/system.slice/sshlock-agent.service");

    const third = await connect(host.target("alice"));
    const sessionId = (await third.exec("echo $XDG_SESSION_ID")).stdout.trim();
    await third.close();
    await until(async () => !(await loginSessions()).includes(sessionId), {
      what: "the logout of another session",
      deadlineMs: 20_000,
      intervalMs: 50,
    });
    assert.deepEqual(await pidsOf(host, "session-lock-x infinity"), [lock.holderPid]);
    await assertLocked(host, "x");

    await using next = await connect(host.target("root"), { owner: "next" });
    const waiting = next.claim("x", { waitMs: 60_000 });
    await first.kill();
    await using granted = await waiting;
    for (const leftover of ["sleep 1001", "sleep 1002"]) {
      assert.deepEqual(await pidsOf(host, leftover), [], `${leftover} lived at the handover`);
    }
    for (const stranger of ["sleep 1003", "sleep 1004"]) {
      assert.equal((await pidsOf(host, stranger)).length, 1, `${stranger} was ended`);
    }
    assert.ok(granted.token! > lock.token);
    await granted.release();
    assert.deepEqual(await pidsOf(host, "session-lock-x infinity"), []);
    await host.sh("loginctl terminate-user alice");
    await untilLoggedOut("alice");
  });
}

test("RemoveIPC leaves a lock file of root's agent alone when its user logs out", {
  skip,
}, async () => {
  await setLogind("kill", "KillUserProcesses=no");
  const session = await connect(host.target("alice"));
  await session.claim("y");
  await session.exec("touch /dev/shm/of-alice");
  const inode = await host.sh("stat --format %i /dev/shm/session-lock-y");
  await session.close();
  await untilLoggedOut("alice");
  // It does remove what belongs to the user, and so would remove a lock file that did.
  await until(async () => (await host.exec("test -e /dev/shm/of-alice")).code !== 0, {
    what: "the work of RemoveIPC",
    deadlineMs: 20_000,
    intervalMs: 50,
  });
  assert.equal(await host.sh("stat --format '%i %u' /dev/shm/session-lock-y"), `${inode} 0`);
});

test("RemoveIPC takes a lock file of a user's own: doctor warns, and the loss is told", {
  skip,
}, async () => {
  // Programs of a normal user that belong to no login, as a service with User= runs them.
  const asBob = "systemd-run --quiet --uid=bob --setenv=HOME=/home/bob";
  await host.sh(`cat >${NOTES}/holds.sh <<'END'
sshlock-agent run z sh -c 'echo up >${NOTES}/up; exec sleep 1005' >${NOTES}/said 2>&1
echo $? >${NOTES}/code
END
    cat >${NOTES}/shell.sh <<'END'
${shellProtocol("/dev/shm", "shell")}
exec sleep infinity
END
    ${asBob} sh ${NOTES}/holds.sh; ${asBob} --unit=shell bash ${NOTES}/shell.sh`);
  const session = await connect(host.target("bob"));
  await until(async () => (await host.exec(`cat ${NOTES}/up`)).stdout === "up\n", {
    what: "bob's lock",
    deadlineMs: 20_000,
    intervalMs: 50,
  });
  await untilRuns("session-lock-shell infinity");
  assert.equal(await host.sh("stat --format %U /dev/shm/session-lock-z"), "bob");
  const own = (await session.exec("sshlock-agent doctor --json", { check: false })).stdout;
  assert.equal(statusOf(own, "logind-remove-ipc"), "warn");
  const roots = (await host.exec("sshlock-agent doctor --json")).stdout;
  assert.equal(statusOf(roots, "logind-remove-ipc"), "warn");

  await session.close();
  await untilLoggedOut("bob");
  await until(async () => (await host.exec(`cat ${NOTES}/code`)).stdout === "93\n", {
    what: "the loss of bob's lock",
    deadlineMs: 20_000,
    intervalMs: 50,
  });
  assert.match(await host.sh(`cat ${NOTES}/said`), /^sshlock-agent: Lost lock "z": .*removed/m);
  assert.deepEqual(await pidsOf(host, "sleep 1005"), []);

  // Nobody tells the shell protocol: its holder lives, and another session gets the lock beside it.
  const after = (await host.exec("sshlock-agent doctor --json")).stdout;
  assert.equal(statusOf(after, "lost-lock-file"), "fail");
  await using next = await connect(host.target("root"));
  await using lock = await next.claim("shell");
  assert.ok(lock.held);
  await host.sh("systemctl stop shell.service");
});

test("KillUserProcesses=yes ends a user's own agent with the login that started it: held or told", {
  skip,
}, async (t) => {
  await setLogind("kill", "KillUserProcesses=yes");
  const starter = await connect(host.target("bob"), { owner: "starter" });
  assert.equal((await starter.claim("of-starter")).way, "bridge");
  await using second = await connect(host.target("bob"), { owner: "second" });
  const lock = await second.claim("of-second");
  assert.match(await cgroupOf(host, lock.holderPid), /\/session-\w+\.scope$/);
  const report = await second.exec("sshlock-agent doctor --json", { check: false });
  assert.equal(statusOf(report.stdout, "logind-kill-processes"), "warn");
  await starter.close();
  // Where the agent has replaced the holder before it was ended itself, the one that the other session
  // starts takes that over. Else there is a moment without either, and the lock is lost.
  const isKept = async () => {
    const { locks } = await second.status("of-second");
    const [holder] = locks[0]!.holders;
    if (holder?.kind !== "own" || holder.token !== lock.token) return false;
    return holder.holderPid !== lock.holderPid && holder.state === "held";
  };
  await until(async () => lock.signal.aborted || await isKept().catch(() => false), {
    ...{ what: "the loss, or the lock with a new holder", deadlineMs: 60_000, intervalMs: 50 },
  });
  if (!lock.signal.aborted) return t.diagnostic("own agent killed at logout: the lock was kept");
  t.diagnostic(`own agent killed at logout: ${(lock.signal.reason as Error).message}`);
  assert.ok(lock.signal.reason instanceof LockLostError);
  assert.deepEqual(await pidsOf(host, "session-lock-of-second infinity"), []);
});

/** Writes a drop-in of logind's and has it read. */
async function setLogind(file: string, line: string): Promise<void> {
  await host.sh(`printf '[Login]\\n${line}\\n' >/etc/systemd/logind.conf.d/${file}.conf
    systemctl restart systemd-logind`);
}

async function loginSessions(): Promise<string[]> {
  const text = await loginctl("list-sessions");
  return text.split("\n").map((line) => line.trim().split(/\s+/)[0]!);
}

/** It asks about each one in turn, and fails where one has gone meanwhile. */
async function loginctl(list: string): Promise<string> {
  const ask = `loginctl ${list} --no-legend`;
  return await host.sh(`until text=$(${ask}); do sleep 0.05; done; echo "$text"`);
}

async function untilLoggedOut(user: string): Promise<void> {
  await until(async () => !(await loginctl("list-users")).includes(user), {
    what: `the logout of ${user}`,
    deadlineMs: 30_000,
    intervalMs: 50,
  });
}

async function untilRuns(command: string): Promise<number[]> {
  return await until(async () => {
    const pids = await pidsOf(host, command);
    return pids.length > 0 && pids;
  }, { what: command, deadlineMs: 20_000, intervalMs: 20 });
}

/** It has no environment and no ancestor in the session; whether it has an audit id says PAM. */
async function assertKnownByScopeOnly(pid: number): Promise<void> {
  assert.match(await cgroupOf(host, pid), /^\/user\.slice\/user-1000\.slice\/session-\w+\.scope$/);
  await until(async () => /^PPid:\t1$/m.test(await host.sh(`cat /proc/${pid}/status`)), {
    what: "a process without its parents",
  });
  assert.equal(await host.sh(`tr -d '\\0' </proc/${pid}/environ`), "");
}

function statusOf(report: string, id: string): string | undefined {
  const { findings } = JSON.parse(report) as { findings: { id: string; state: string }[] };
  return findings.find((finding) => finding.id === id)?.state;
}
