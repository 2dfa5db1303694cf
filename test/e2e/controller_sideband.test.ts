import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import test, { after, before } from "node:test";

import { whyNoAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { isAlive, readStat, signalPid } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import { type Host, startHost } from "./controller_host.ts";

const skip = whyNoSshd() ?? whyNoAgent();
let host: Host;

before(async () => {
  if (skip === undefined) host = await startHost();
});
after(() => host?.[Symbol.asyncDispose]());

const DAEMON = "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!";

test(
  "processes() lists what runs behind the session, and signals reach only that",
  { skip },
  async () => {
    await using session = await host.connect();
    await using other = await host.connect();
    await using _lock = await session.claim("x");
    const mine = Number((await session.exec(DAEMON)).stdout);
    const theirs = Number((await other.exec(DAEMON)).stdout);
    const listed = (await session.processes()).map(({ pid }) => pid);
    assert.ok(listed.includes(mine), "a daemon of this session is listed");
    assert.ok(!listed.includes(theirs), "one of another session is not");
    assert.deepEqual(await session.signal("SIGTERM", { pid: theirs }), []);
    assert.deepEqual(await session.signal("SIGTERM", { pid: mine }), [mine]);
    await until(() => !isAlive(mine) || readStat(mine)?.state === "Z", { what: "its end" });
    assert.ok(isAlive(theirs));
    signalPid(theirs, "SIGKILL");
  },
);

test("without an agent nobody can tell processes, and the error says so", { skip }, async () => {
  await using session = await host.connect({ transport: "shell" });
  await assert.rejects(session.processes(), { name: "AgentError", code: "unknown-method" });
});

test("leftovers of a session that is killed are drained under onEnd", { skip }, async () => {
  const session = await host.connect();
  await session.claim("drained", { onEnd: "drain" });
  const work = Number((await session.exec(DAEMON)).stdout);
  for (const { pid } of host.sshd.sessions()) signalPid(pid, "SIGKILL");
  await session.closed;
  await using next = await host.connect();
  // At first it is detached, then its processes are looked for.
  await until(async () => {
    const refusal = await next.claim("drained").then(() => assert.fail("granted"), String);
    return /whose session is ending \(.*sleep/.test(refusal);
  }, { what: "a refusal that names the process" });
  signalPid(work, "SIGKILL");
  await using _lock = await next.claim("drained", { waitMs: 10_000 });
});

test("a command that is a chain of processes, each gone in a moment, is ended at its timeout", {
  skip: skip ?? requires("perl", "flock"),
}, async () => {
  await using dir = await makeTempDir("chain");
  const file = join(dir.path, "chain");
  await writeFile(file, "");
  await using session = await host.connect();
  await using _lock = await session.claim("chain");
  const words = ["perl", resolve("test/fixtures/chain.pl"), file, "1", "setsid", "deaf"];
  const limits = { timeoutMs: 500, killAfterMs: 100 };
  await assert.rejects(session.exec(words.join(" "), limits), { name: "CommandTimeoutError" });
  assert.equal(spawnSync("flock", ["-xn", file, "true"]).status, 0);
});
