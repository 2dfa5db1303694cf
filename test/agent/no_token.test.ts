import assert from "node:assert/strict";
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runCommand } from "../support/agent_command.ts";
import { type AgentDirs, makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { flock } from "../support/flock.ts";
import type { RpcClient, RpcError } from "../support/rpc_client.ts";
import { lockPath } from "../support/shell_lock.ts";
import { startAgentWithMounts, whyNoMounts, withMounts } from "../support/wrapped_agent.ts";

test("with a damaged mark no lock is granted, and the error names the file", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  const { stateDir } = agent.dirs;
  const [mark, counter] = [join(stateDir, "token-reserved"), join(stateDir, "token")];
  const good = readFileSync(mark, "utf8");
  writeFileSync(mark, "not a number\n");
  writeFileSync(counter, "");
  await assertNoToken(client, agent.dirs, `${mark} is damaged`);
  writeFileSync(mark, good);
  assert.ok((await client.request("claim", { name: "x" })).token as number > Number(good));
});

test("an agent does not start on a damaged mark", async () => {
  await using made = await makeAgentDirs();
  writeFileSync(join(made.dirs.stateDir, "token-reserved"), "");
  const { code, stderr } = await runCommand(made.dirs, ["serve"]);
  assert.equal(code, 125);
  assert.match(stderr, /Cannot count a token in .*: .*token-reserved is damaged\nhint: /);
});

test("with a full state folder no lock is granted once the reserve is used up", {
  skip: whyNoMounts(),
}, async () => {
  await using made = await makeAgentDirs();
  const { dirs } = made;
  const script = 'mount -t tmpfs -o mode=0700,size=64k tmpfs "$STATE"';
  await using agent = await startAgentWithMounts(script, { dirs });
  await using client = await agent.client("a");
  // The folder as the agent sees it.
  const state = `/proc/${agent.pid}/root${dirs.stateDir}`;
  fill(join(state, "filler"));
  assert.ok((await client.request("claim", { name: "x" })).token);
  await client.request("release", { name: "x" });
  const [, bootId] = readFileSync(join(state, "token"), "utf8").trim().split(" ");
  const mark = readFileSync(join(state, "token-reserved"), "utf8").trim();
  writeFileSync(join(state, "token"), `${mark} ${bootId}\n`, { flag: "r+" });
  await assertNoToken(client, dirs, /ENOSPC|no space left/i);
  unlinkSync(join(state, "filler"));
  assert.ok((await client.request("claim", { name: "x" })).token as number > Number(mark));
});

test("on a read-only state folder nothing is granted", { skip: whyNoMounts() }, async () => {
  await using made = await makeAgentDirs();
  const script = 'mount -t tmpfs -o ro,mode=0700 tmpfs "$STATE"';
  for (const args of [["serve"], ["run", "x", "echo", "granted"]]) {
    const end = await withMounts(script, made.dirs, () => runCommand(made.dirs, args));
    assert.equal(end.code, 125);
    assert.equal(end.stdout, "");
    assert.match(end.stderr, /Cannot count a token in .*: .*(EROFS|[Rr]ead-only)/);
  }
});

test("a lock whose record cannot be written is not granted", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  // In the way of the file that becomes the record.
  const draft = join(agent.dirs.runtimeDir, "locks", `x.json.${agent.pid}.new`);
  mkdirSync(draft);
  for (const waitMs of [0, 60_000]) {
    await assert.rejects(client.request("claim", { name: "x", waitMs }), (error: RpcError) => {
      assert.equal(error.data.code, "no-record");
      assert.match(error.message, /^Cannot claim "x": its record cannot be written: /);
      return true;
    });
  }
  const free = await flock(lockPath(agent.dirs.lockDir, "x"));
  assert.ok(free.kind === "held", "a lock that was not granted is held");
  await free.holder.end();
  rmdirSync(draft);
  const { token } = await client.request("claim", { name: "x" });
  // Another session may not join it where that cannot be recorded; the lock itself stays.
  mkdirSync(draft);
  await using other = await agent.client("a");
  await assert.rejects(
    other.request("claim", { name: "x" }),
    ({ data }: RpcError) => data.code === "no-record",
  );
  rmdirSync(draft);
  const joined = await other.request("claim", { name: "x" });
  assert.deepEqual([joined.joined, joined.token], [true, token]);
});

test("a parked lock stays reserved where its record cannot be written", async () => {
  await using agent = await startAgent();
  const first = await agent.client("a");
  const { token } = await first.request("claim", { name: "x", parkMs: 60_000 });
  await first.close();
  await agent.events.waitFor(({ event }) => event === "lock-parked");
  await using back = await agent.client("a");
  const draft = join(agent.dirs.runtimeDir, "locks", `x.json.${agent.pid}.new`);
  mkdirSync(draft);
  await assert.rejects(
    back.request("claim", { name: "x" }),
    ({ data }: RpcError) => data.code === "no-record",
  );
  await using rival = await agent.client("b");
  await assert.rejects(
    rival.request("claim", { name: "x" }),
    ({ data }: RpcError) => data.code === "contended",
  );
  rmdirSync(draft);
  const again = await back.request("claim", { name: "x" });
  assert.equal(again.unparked, true);
  assert.ok(again.token as number > (token as number));
});

test("a record that cannot be written leaves nothing behind", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  const folder = join(agent.dirs.runtimeDir, "locks");
  // In the way of the record itself: it is drafted, and cannot take its place.
  mkdirSync(join(folder, "x.json"));
  await assert.rejects(
    client.request("claim", { name: "x" }),
    ({ data }: RpcError) => data.code === "no-record",
  );
  assert.deepEqual(readdirSync(folder), ["x.json"]);
});

function fill(path: string): void {
  for (let size = 65_536; size >= 1; size = Math.floor(size / 2)) {
    try {
      for (;;) writeFileSync(path, Buffer.alloc(size), { flag: "a" });
    } catch {
      // Full for pieces of this size.
    }
  }
}

async function assertNoToken(
  client: RpcClient,
  dirs: AgentDirs,
  why: string | RegExp,
): Promise<void> {
  await assert.rejects(client.request("claim", { name: "x" }), (error: RpcError) => {
    assert.equal(error.data.code, "no-token");
    assert.equal(error.data.folder, dirs.stateDir);
    assert.ok(error.message.startsWith(`Cannot count a token in ${dirs.stateDir}: `));
    if (typeof why === "string") assert.ok(error.message.endsWith(why), error.message);
    else assert.match(error.message, why);
    return true;
  });
  const free = await flock(lockPath(dirs.lockDir, "x"));
  assert.ok(free.kind === "held", "a lock that was not granted is held");
  await free.holder.end();
}
