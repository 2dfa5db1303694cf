import assert from "node:assert/strict";
import { readFileSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runCommand } from "../support/agent_command.ts";
import { type AgentDirs, makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { flock } from "../support/flock.ts";
import { startAgentWithMounts, whyNoMounts, withMounts } from "../support/mounts.ts";
import { type RpcClient, type RpcError } from "../support/rpc_client.ts";
import { lockPath } from "../support/shell_lock.ts";

test("tokens rise over restarts, kills, reboots and a lost counter", async () => {
  await using made = await makeAgentDirs();
  const { dirs } = made;
  const tokens: number[] = [];
  const between: [what: string, act: () => void][] = [
    ["nothing", () => {}],
    ["a reboot", () => reboot(dirs)],
    ["a reboot that lost the counter", () => {
      reboot(dirs);
      unlinkSync(join(dirs.stateDir, "token"));
    }],
    ["a counter of garbage", () => writeFileSync(join(dirs.stateDir, "token"), "\0\0\0")],
    ["a counter cut short", () => writeFileSync(join(dirs.stateDir, "token"), "17")],
  ];
  for (const [what, act] of between) {
    for (const end of ["stop", "kill"] as const) {
      act();
      const agent = await startAgent({ dirs });
      const client = await agent.client("a");
      for (let n = 0; n < 3; n++) {
        tokens.push((await client.request("claim", { name: "x" })).token as number);
        await client.request("release", { name: "x" });
        assertRising(tokens, `after ${what} and ${end}`);
      }
      await agent[end]();
    }
  }
});

test("tokens rise over run with and without an agent", async () => {
  await using made = await makeAgentDirs();
  const print = ["run", "x", "sh", "-c", 'echo "$SSHLOCK_TOKEN"'];
  const tokens: number[] = [];
  const claim = async () => tokens.push(Number((await runCommand(made.dirs, print)).stdout));
  await claim();
  await using _agent = await startAgent({ dirs: made.dirs });
  for (let n = 0; n < 3; n++) await claim();
  assertRising(tokens, "over both ways");
});

test("two agents that share a state folder never give one token twice", async () => {
  await using one = await makeAgentDirs();
  await using two = await makeAgentDirs();
  const { stateDir } = one.dirs;
  await using first = await startAgent({ dirs: one.dirs });
  await using second = await startAgent({ dirs: { ...two.dirs, stateDir } });
  await using a = await first.client("a");
  await using b = await second.client("b");
  const tokens: number[] = [];
  const claim = async (client: RpcClient, name: string) => {
    const { token } = await client.request("claim", { name });
    await client.request("release", { name });
    return token as number;
  };
  for (let n = 0; n < 50; n++) {
    for (const client of [a, b]) tokens.push(await claim(client, "x"));
  }
  assertRising(tokens, "in turns");
  const both = await Promise.all(
    [a, b].flatMap((client) => Array.from({ length: 50 }, (_, n) => claim(client, `n${n}`))),
  );
  assert.equal(new Set([...tokens, ...both]).size, 200);
});

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

function reboot({ stateDir, runtimeDir }: AgentDirs): void {
  rmSync(runtimeDir, { recursive: true });
  const path = join(stateDir, "token");
  try {
    const [token] = readFileSync(path, "utf8").split(" ");
    writeFileSync(path, `${token} 00000000-0000-0000-0000-000000000000\n`);
  } catch {
    // The first start: there is no counter yet.
  }
}

function fill(path: string): void {
  for (let size = 65_536; size >= 1; size = Math.floor(size / 2)) {
    try {
      for (;;) writeFileSync(path, Buffer.alloc(size), { flag: "a" });
    } catch {
      // Full for pieces of this size.
    }
  }
}

function assertRising(tokens: number[], when: string): void {
  for (const [n, token] of tokens.entries()) {
    assert.ok(n === 0 || token > tokens[n - 1]!, `${tokens[n - 1]} then ${token} ${when}`);
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
