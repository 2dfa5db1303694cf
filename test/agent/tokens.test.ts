import assert from "node:assert/strict";
import { readFileSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runCommand } from "../support/agent_command.ts";
import { type AgentDirs, makeAgentDirs, startAgent } from "../support/agent_process.ts";
import type { RpcClient } from "../support/rpc_client.ts";

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
        const mark = Number(readFileSync(join(dirs.stateDir, "token-reserved"), "utf8"));
        assert.ok(mark >= tokens.at(-1)!, `${tokens.at(-1)} was given out beyond the mark ${mark}`);
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

function assertRising(tokens: number[], when: string): void {
  for (const [n, token] of tokens.entries()) {
    assert.ok(n === 0 || token > tokens[n - 1]!, `${tokens[n - 1]} then ${token} ${when}`);
  }
}
