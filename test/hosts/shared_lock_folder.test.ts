import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "node:test";

import { until, within } from "../support/events.ts";
import {
  freeze,
  isAlive,
  killAndConfirm,
  processesWithLockIn,
  signalPid,
} from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { shellProtocol } from "../support/shell_lock.ts";
import { makeLockDir, makeTempDir } from "../support/temp_dir.ts";
import {
  type ContainedProcess,
  type Container,
  startContainer,
  whyNoContainers,
} from "./support/container.ts";

const BINARY = "dist/sshlock-agent";
const skip = whyNoContainers() ?? requires(BINARY, "flock", "bash");

/** Folders for agents in containers; what locks are left ends with the containers. */
async function makePlaces() {
  const [locks, rest] = [await makeLockDir("shared"), await makeTempDir("shared")];
  const command = (place: string, ...args: string[]) => {
    const folder = join(rest.path, place);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    return [
      resolve(BINARY),
      ...["--lock-dir", locks.path, "--runtime-dir", join(folder, "run")],
      ...["--state-dir", join(rest.path, "state")],
      ...["--holder", resolve(`dist/sshlock-holder-${process.arch}`), ...args],
    ];
  };
  const record = (place: string, name: string) =>
    join(rest.path, place, "run", "locks", `${name}.json`);
  const dispose = async () => void await Promise.all([locks.remove(), rest.remove()]);
  return { lockDir: locks.path, command, record, [Symbol.asyncDispose]: dispose };
}

type Places = Awaited<ReturnType<typeof makePlaces>>;

async function startAgent(container: Container, places: Places, place: string) {
  const agent = container.start(...places.command(place, "serve"));
  const started = await agent.err.waitFor((line) => /"agent-started"/.test(line), {
    what: "an agent that listens",
  });
  return { agent, started };
}

/** Takes a lock in a container; it is held until its standard input ends. */
async function hold(container: Container, words: string[]): Promise<ContainedProcess> {
  const holding = container.start(...words, "sh", "-c", "echo $SSHLOCK_TOKEN; exec cat");
  await holding.out.waitFor((line) => /^\d+$/.test(line), { what: "the lock" });
  return holding;
}

test(
  "agents of two containers exclude each other on one lock folder, and say who is outside",
  { skip },
  async () => {
    await using places = await makePlaces();
    await using a = await startContainer();
    await using b = await startContainer();
    await startAgent(a, places, "a");
    await startAgent(b, places, "b");
    const holding = await hold(a, places.command("a", "run", "x"));

    const refused = b.start(...places.command("b", "run", "--wait", "0", "x", "true"));
    assert.equal((await refused.exit).code, 124);
    assert.match(refused.err.all.join("\n"), /foreign.*another pid namespace/);
    const doctor = b.start(...places.command("b", "doctor"));
    await doctor.exit;
    assert.match(doctor.out.all.join("\n"), /Pid namespace is a container's/);

    const waiting = b.start(...places.command("b", "run", "x", "sh", "-c", "echo $SSHLOCK_TOKEN"));
    const [holderOfA] = processesWithLockIn(places.lockDir);
    await until(() => processesWithLockIn(places.lockDir).length === 2, { what: "B's waiter" });
    assert.equal(waiting.out.all.length, 0, "granted beside the holder of another container");
    assert.ok(isAlive(holderOfA!));
    holding.child.stdin?.end();
    assert.equal((await within(waiting.exit, { what: "B's turn" })).code, 0);
    // Both count in one state folder.
    assert.ok(Number(waiting.out.all[0]) > Number(holding.out.all[0]));
  },
);

test("an agent judges no pid of another container dead", { skip }, async () => {
  await using places = await makePlaces();
  await using a = await startContainer();
  await using b = await startContainer();
  const first = await startAgent(a, places, "common");
  const holding = await hold(a, places.command("common", "run", "x"));
  // Meanwhile it must not ask the agent of the other container to resume its session.
  await freeze(await holding.pid());
  await killAndConfirm(await first.agent.pid());

  // The records of the first are there, with pids that mean nothing or something else here.
  const second = await startAgent(b, places, "common");
  const record = places.record("common", "x");
  assert.ok(existsSync(record), "the record of a living lock was taken for stale");
  const before = readFileSync(record, "utf8");
  const refused = b.start(...places.command("common", "run", "--wait", "0", "x", "true"));
  assert.equal((await refused.exit).code, 124);
  assert.equal(second.agent.err.all.some((line) => line.includes("record-stale")), false);
  await killAndConfirm(await second.agent.pid());
  assert.equal(readFileSync(record, "utf8"), before);

  // The one that can judge them takes the lock over, and its session goes on.
  const third = await startAgent(a, places, "common");
  // nsenter(1) stops and goes on with its child.
  signalPid(holding.child.pid!, "SIGCONT");
  await third.agent.err.waitFor((line) => line.includes('"session-resumed"'), {
    what: "the session",
  });
  assert.ok(third.agent.err.all.some((line) => line.includes('"lock-adopted"')));
  holding.child.stdin?.end();
  assert.equal((await within(holding.exit)).code, 0, "the lock was lost");
});

test("inside a container the holder of the shell protocol is listed and named", {
  skip,
}, async () => {
  await using places = await makePlaces();
  await using container = await startContainer();
  await startAgent(container, places, "a");
  // Its flock(1) has ended: /proc/locks of a container leaves such a lock out.
  const shell = container.start("bash", "-c", shellProtocol(places.lockDir, "x"));
  await shell.exit;
  const status = container.start(...places.command("a", "status", "--json"));
  await status.exit;
  const { locks: [lock] } = JSON.parse(status.out.all.join(""));
  assert.equal(lock?.name, "x");
  assert.equal(lock.holders[0].command, "session-lock-x infinity");
  const refused = container.start(...places.command("a", "run", "--wait", "0", "x", "true"));
  assert.equal((await refused.exit).code, 124);
  assert.match(refused.err.all.join("\n"), /session-lock-x infinity/);
});
