import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, test } from "node:test";

import {
  AgentError,
  AgentMissingError,
  connect,
  type Lock,
  LockContendedError,
  type Session,
} from "../../controller/mod.ts";
import { childExit, eachLine } from "../support/child.ts";
import { EventLog, until, within } from "../support/events.ts";
import { describeBaseRoot } from "./support/base_root.ts";
import { type BootedHost, PACKAGE, whyNoHosts } from "./support/booted_host.ts";
import {
  AGENT,
  agentEvents,
  agentPid,
  assertLocked,
  bootInstalledHost,
  cgroupOf,
  countEvents,
  nextAgent,
  NOTES,
} from "./support/installed_host.ts";

const UPGRADES = 4;

/** One at a time may be here: it tells of a second one, and of the order of tokens. */
const WITNESS = `#!/bin/sh
set -e
token=\${1:-$SSHLOCK_TOKEN}
mkdir ${NOTES}/inside 2>/dev/null || echo "$token" >>${NOTES}/overlaps
echo "$token" >>${NOTES}/tokens
rmdir ${NOTES}/inside
`;

const skip = await whyNoHosts();
let host: BootedHost;

before(async () => {
  if (skip !== undefined) return;
  host = await bootInstalledHost({ files: { "/usr/local/bin/witness": WITNESS } });
});
after(() => host?.[Symbol.asyncDispose]());

test("after install.sh systemd listens, and the first connection starts the agent", {
  skip,
}, async (t) => {
  t.diagnostic(describeBaseRoot());
  await host.sh("systemctl stop sshlock-agent.service");
  assert.equal(await agentPid(host), 0);
  assert.equal(await host.sh("systemctl is-active sshlock-agent.socket"), "active");
  assert.equal(await host.sh("systemctl is-enabled sshlock-agent.socket"), "enabled");
  assert.equal(
    await host.sh("stat --format '%a %U:%G' /run/sshlock/agent.sock"),
    "660 root:sshlock",
  );
  await using session = await connect(host.target("alice"), { transport: "streamlocal" });
  await using lock = await session.claim("first");
  assert.ok(await agentPid(host) > 0);
  assert.ok(
    (await agentEvents(host)).some(({ event, activated }) =>
      event === "agent-started" && activated === true
    ),
  );
  assert.equal(await cgroupOf(host, lock.holderPid), "/system.slice/sshlock-agent.service");
  await using bob = await connect(host.target("bob"), { transport: "streamlocal" });
  await assert.rejects(bob.claim("first"), AgentMissingError);
});

test("a held lock outlives restart, stop and kill -9 of the agent, and is never free", {
  skip,
}, async () => {
  await using session = await connect(host.target("alice"));
  const lock = await session.claim("kept");
  const { token, holderPid } = lock;
  const attacker = `while [ ! -e ${NOTES}/enough ]; do
    flock --nonblock /dev/shm/session-lock-kept touch ${NOTES}/was-free; done`;
  const attack = host.exec(attacker);
  const ends = {
    restart: "systemctl restart sshlock-agent.service",
    stop: "systemctl stop sshlock-agent.service",
    kill: "kill -KILL $(systemctl show --property MainPID --value sshlock-agent.service)",
  };
  for (const [what, command] of Object.entries(ends)) {
    const [pid, resumed] = [await agentPid(host), await countEvents(host, "session-resumed")];
    await host.sh(command);
    await nextAgent(host, pid);
    await until(async () => await countEvents(host, "session-resumed") > resumed, {
      what: `the session after ${what}`,
      deadlineMs: 20_000,
    });
    assert.equal(await cgroupOf(host, holderPid), "/system.slice/sshlock-agent.service");
  }
  await host.sh(`touch ${NOTES}/enough`);
  await attack;
  assert.equal((await host.exec(`ls ${NOTES}/was-free`)).code, 2, "the lock was free meanwhile");
  assert.deepEqual([lock.held, lock.token, lock.holderPid], [true, token, holderPid]);
  await lock.release();
  await using next = await session.claim("kept");
  assert.ok(next.token! > token!);
});

test("upgrades under load: no lock is lost, none granted twice, tokens rise, sessions resume", {
  skip,
}, async (t) => {
  const held = await holdLocks();
  const command = await holdByRun();
  await host.sh(`: >${NOTES}/overlaps; : >${NOTES}/tokens; chmod 0666 ${NOTES}/*s`);
  const load = startLoad();
  const resumedBefore = await countEvents(host, "session-resumed");
  for (let version = 1; version <= UPGRADES; version++) {
    await load.progress();
    const previous = await agentPid(host);
    // A byte of the ELF header that means nothing makes it another binary.
    await host.sh(`cp ${PACKAGE}/dist/sshlock-agent ${NOTES}/new
      printf '\\${version}' | dd of=${NOTES}/new bs=1 seek=15 conv=notrunc status=none
      ${PACKAGE}/install.sh --quiet --from ${NOTES}/new >${NOTES}/install.log 2>&1`);
    await nextAgent(host, previous);
    await host.sh(`cmp ${NOTES}/new ${AGENT}`);
    const expected = resumedBefore + version * (held.length + 1);
    await until(async () => await countEvents(host, "session-resumed") >= expected, {
      what: `the sessions after upgrade ${version}`,
      deadlineMs: 30_000,
      intervalMs: 100,
    });
  }
  await load.progress();
  const { claims, cancelled } = await load.stop();

  for (const { lock, token } of held) {
    assert.deepEqual([lock.held, lock.token], [true, token], `${lock.name} was lost`);
    await assertLocked(host, lock.name);
  }
  assert.equal(command.isRunning(), true, "run has lost its lock");
  await assertLocked(host, "held-by-run");
  assert.equal((await host.exec(`cat ${NOTES}/overlaps`)).stdout, "", "granted twice");
  const tokens = (await host.sh(`cat ${NOTES}/tokens`)).split("\n").map(Number);
  const fallen = tokens.flatMap((token, index) =>
    index > 0 && token <= tokens[index - 1]! ? [[tokens[index - 1], token]] : []
  );
  assert.deepEqual(fallen, [], "tokens did not rise in the order of the grants");
  assert.ok(tokens.length > claims, "not every grant over SSH, or none on the host, was seen");
  t.diagnostic(
    `${UPGRADES} upgrades: ${tokens.length} grants of one lock, ${claims} of them over SSH, ` +
      `${cancelled} waiting claims cancelled, ${held.length + 1} held locks kept`,
  );

  await command.end();
  for (const { session, lock } of held) {
    await lock.release();
    await session.close();
  }
  assert.equal((await agentEvents(host)).some(({ event }) => event === "adoption-failed"), false);
});

interface Held {
  session: Session;
  lock: Lock;
  token: number | undefined;
}

/** Sessions over both ways that hold a lock each. */
function holdLocks(): Promise<Held[]> {
  const ways = ["streamlocal", "streamlocal", "bridge"] as const;
  return Promise.all(ways.map(async (transport, index) => {
    const session = await connect(host.target("alice"), { transport, owner: `holder/${index}` });
    const lock = await session.claim(`held-${index}`);
    return { session, lock, token: lock.token };
  }));
}

/** A command on the host that holds a lock through the socket, in an SSH session. */
async function holdByRun() {
  const words = ["sshlock-agent", "run", "held-by-run", "sh", "-c", "'echo up; exec cat'"];
  const child = spawn("ssh", [...host.sshArgs("alice"), ...words], { stdio: "pipe" });
  const exit = childExit(child);
  const out = new EventLog<string>();
  eachLine(child.stdout, (line) => out.push(line));
  await out.waitFor((line) => line === "up", { what: "run under its lock" });
  const end = async () => {
    child.stdin.end();
    assert.equal((await within(exit)).code, 0);
  };
  return { isRunning: () => child.exitCode === null && child.signalCode === null, end };
}

/** Claims one lock again and again, from sessions over SSH and from commands on the host. */
function startLoad() {
  let [claims, cancelled, isOver] = [0, 0, false];
  const overSsh = ["streamlocal", "streamlocal", "bridge"] as const;
  const work = overSsh.map(async (transport, index) => {
    await using session = await connect(host.target("alice"), {
      transport,
      owner: `load/${index}`,
    });
    while (!isOver) {
      try {
        await using lock = await session.claim("busy", { waitMs: 20_000 });
        await session.exec(`/usr/local/bin/witness ${lock.token}`, { signal: lock.signal });
        claims++;
      } catch (error) {
        // What waits at the moment of a restart is refused, or unanswered, and may be asked again.
        const isExpected = error instanceof LockContendedError ||
          error instanceof AgentError && /^(cancelled|link-closed)$/.test(error.code);
        if (!isExpected) throw error;
        cancelled++;
      }
    }
  });
  const onHost = [1, 2].map(() =>
    host.exec(`while [ ! -e ${NOTES}/stop ]; do
      sshlock-agent run --wait 20s busy /usr/local/bin/witness || :; done`)
  );
  const all = Promise.all([...work, ...onHost]);
  all.catch(() => {});
  return {
    /** Waits for some more grants over SSH. */
    async progress() {
      const goal = claims + 5;
      const reached = until(() => claims >= goal, { what: "further grants", deadlineMs: 60_000 });
      await Promise.race([reached, all.then(() => reached)]);
    },
    async stop() {
      isOver = true;
      await host.sh(`touch ${NOTES}/stop`);
      await within(all, { what: "the end of the load", deadlineMs: 60_000 });
      return { claims, cancelled };
    },
  };
}
