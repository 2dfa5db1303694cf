import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { connect, LockContendedError } from "../../controller/mod.ts";
import { until } from "../support/events.ts";
import { shellProtocol } from "../support/shell_lock.ts";
import { openBridged } from "../support/ssh_session.ts";
import { describeBaseRoot } from "./support/base_root.ts";
import { type BootedHost, bootHost, PACKAGE, whyNoHosts } from "./support/booted_host.ts";
import {
  AGENT,
  agentEvents,
  assertLocked,
  bootInstalledHost,
  pidsOf,
} from "./support/installed_host.ts";

const skip = await whyNoHosts();
let host: BootedHost;

before(async () => {
  if (skip !== undefined) return;
  host = await bootInstalledHost();
  await host.sh("mount -o remount,hidepid=2 /proc");
});
after(() => host?.[Symbol.asyncDispose]());

test("under hidepid=2 doctor names it, and says what a normal user misses", { skip }, async (t) => {
  t.diagnostic(describeBaseRoot());
  const bob = await findings("runuser -u bob -- sshlock-agent doctor --json");
  const proc = bob.find(({ id }) => id === "proc");
  assert.equal(proc?.state, "warn");
  assert.match(proc.what, /hidepid=\w+: foreign holders cannot be named/);
  const roots = await findings("sshlock-agent doctor --json");
  const rootsProc = roots.find(({ id }) => id === "proc");
  assert.equal(rootsProc?.state, "ok");
  assert.match(rootsProc.what, /hidepid=\w+, which hides nothing from root/);
});

test("under hidepid=2 root's agent clears a session's processes away as ever", {
  skip,
}, async () => {
  const prelude = `(env -i setsid sleep 2001 >/dev/null 2>&1 </dev/null &)`;
  const first = openBridged({ sshArgs: host.sshArgs("alice") }, prelude, [AGENT, "bridge"]);
  await first.client.request("hello", { protocol: 1, client: "test", owner: "first" });
  await first.client.request("claim", { name: "x", graceMs: 2_000 });
  await using next = await connect(host.target("root"), { owner: "next" });
  await assert.rejects(next.claim("x"), (error) => {
    assert.ok(error instanceof LockContendedError);
    assert.match(error.message, /held by first/);
    return true;
  });
  const waiting = next.claim("x", { waitMs: 60_000 });
  await first.kill();
  await using _ = await waiting;
  assert.deepEqual(await pidsOf(host, "sleep 2001"), []);
});

test("under hidepid=2 a normal user is kept out by what that user cannot see", {
  skip,
}, async () => {
  await host.sh(`bash -c '${shellProtocol("/dev/shm", "hidden")}'`);
  const { code, stderr } = await host.exec(
    "runuser -u bob -- sshlock-agent run --wait 0 hidden true",
  );
  assert.equal(code, 124);
  assert.match(stderr, /hidepid=\w+/);
  await assertLocked(host, "hidden");
});

test("under hidepid=2 a user's own agent keeps and frees locks with their sessions", {
  skip,
}, async () => {
  const first = openBridged(
    { sshArgs: host.sshArgs("bob") },
    "nohup sleep 2002 >/dev/null 2>&1 </dev/null &",
    [AGENT, "bridge"],
  );
  await first.client.request("hello", { protocol: 1, client: "test", owner: "first" });
  await first.client.request("claim", { name: "own", graceMs: 2_000 });
  await using session = await connect(host.target("bob"), { owner: "next" });
  await assert.rejects(session.claim("own"), LockContendedError);
  const waiting = session.claim("own", { waitMs: 60_000 });
  await first.kill();
  await using lock = await waiting;
  assert.ok(lock.held);
  assert.deepEqual(await pidsOf(host, "sleep 2002"), [], "a leftover lived at the handover");
});

test("where a container forbids to copy descriptors, doctor says so and no lock is freed", {
  skip,
}, async () => {
  await using other = await bootHost({ copiesDescriptors: false });
  await other.sh(`${PACKAGE}/install.sh --quiet`);
  await using session = await connect(other.target("root"));
  // Over SSH: what is started from outside is not under the container's filter.
  const report = await session.exec("sshlock-agent doctor --json", { check: false });
  const takeOver = JSON.parse(report.stdout).findings.find(
    ({ id }: { id: string }) => id === "take-over",
  );
  assert.equal(takeOver.state, "warn");
  assert.match(takeOver.what, /EPERM/);
  const lock = await session.claim("x");
  const lost = new Promise((resolve) => lock.signal.addEventListener("abort", resolve));
  await other.sh("systemctl restart sshlock-agent.service");
  await lost;
  await until(
    async () =>
      (await agentEvents(other)).some(({ event, name }) =>
        event === "adoption-failed" && name === "x"
      ),
    { what: "adoption-failed", intervalMs: 50, deadlineMs: 20_000 },
  );
  await assertLocked(other, "x");
});

async function findings(command: string) {
  const { stdout } = await host.exec(command);
  return JSON.parse(stdout).findings as { id: string; state: string; what: string }[];
}
