import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { buildAgent, type Patch, withAgent } from "../support/agent_build.ts";
import { agentCommand } from "../support/agent_process.ts";
import { childExit } from "../support/child.ts";
import { until } from "../support/events.ts";
import { isAlive, readStat } from "../support/processes.ts";
import { requires, root } from "../support/requires.ts";
import { connectRpc } from "../support/rpc_client.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import { claim, startHost } from "./leftovers_host.ts";

const skip = requires("sshd", "ssh", "ssh-keygen", "perl", "flock", root);

const CHAIN = resolve("test/fixtures/chain.pl");

/** How long each process of a chain lives, in milliseconds, and how it is. */
const STORM = ["1", "1 setsid deaf", "3 setsid", "5 deaf", "30 setsid deaf"];

// On a host with many processes what a search has found last is gone when it is over; here it always is.
const LATE: Patch = {
  file: "agent/clean_up.ts",
  find: "const found = await options.find();",
  replace: "const found = await options.find();\n" +
    "for (const one of found) while (isAlive(one)) await new Promise((next) => setTimeout(next, 1));",
};

test("a fork storm of the session is ended before the lock goes to the next, and no other", {
  skip,
}, async () => {
  const engine = agentCommand().length > 1 ? "deno" : "binary";
  const agent = await buildAgent({ name: `late-${engine}`, engine, patches: [LATE] });
  await withAgent(agent, async () => {
    await using host = await startHost();
    await using dir = await makeTempDir("storm");
    const own = STORM.map((_, index) => join(dir.path, `own-${index}`));
    const others = join(dir.path, "others");
    const all = [...own, others];
    for (const file of all) writeFileSync(file, "");
    const other = host.open(startChain(others, "1"));
    const first = host.open(STORM.map((how, index) => startChain(own[index]!, how)).join(""));
    try {
      // They send no pings, and on a busy machine all this takes long.
      const hello = { protocol: 1, silenceMs: 600_000 };
      await other.client.request("hello", { ...hello, owner: "o" });
      await first.client.request("hello", { ...hello, owner: "a" });
      await other.client.request("claim", { name: "y" });
      await first.client.request("claim", { name: "x", graceMs: 100 });
      const isThere = () => livingOf(all).length === all.length;
      await until(isThere, { what: "a storm", deadlineMs: 60_000 });
      await first.kill();
      await using second = await connectRpc(host.agent.dirs.socket);
      await second.request("hello", { protocol: 1, owner: "b", session: "process", silenceMs: 0 });
      await second.request("claim", { name: "x", waitMs: 120_000 }, 120_000);
      assert.deepEqual(livingOf(own), []);
      assert.deepEqual(livingOf([others]), [others], "another session's");
    } finally {
      for (const file of all) rmSync(file);
      await other.kill();
    }
  });
});

test("a process that nothing can end is shown and waited for, never passed over", {
  skip: skip || requires("mkfs.ext4", "fsfreeze", "losetup"),
}, async (t) => {
  await using host = await startHost();
  await using folder = await makeTempDir("frozen");
  await using frozen = await freezeFilesystem(folder.path);
  if (frozen.folder === undefined) return t.skip(`needs a loop device: ${frozen.why}`);
  const first = host.open(
    `dd if=/dev/zero of=${frozen.folder}/f count=1 </dev/null >/dev/null 2>&1 & echo $! >$DIR/stuck`,
  );
  await claim(first, "a", { name: "x", graceMs: 50 });
  const stuck = await host.pid("stuck");
  await until(() => readStat(stuck)?.state === "D", { what: "a process in state D" });
  await first.kill();
  await using second = await host.agent.client("b");
  await until(async () => {
    const { locks } = await second.request<Status>("status", { name: "x" });
    const awaited = locks[0]!.holders[0]?.awaiting ?? [];
    return awaited.some(({ pid, state }) => pid === stuck && state === "D");
  }, { what: "a session that waits for it" });
  const waiting = second.request("claim", { name: "x", waitMs: 60_000 }, 60_000);
  await second.notification("queued");
  // KILL has been sent again and again by now.
  assert.ok(isAlive(stuck));
  await frozen.thaw();
  await waiting;
  assert.equal(isAlive(stuck), false);
});

interface Status {
  locks: { holders: { awaiting?: { pid: number; state: string }[] }[] }[];
}

/** A shell command that starts a chain of processes in the background, which goes on with the file. */
function startChain(file: string, how: string): string {
  return `perl ${CHAIN} ${file} ${how} </dev/null >/dev/null 2>&1 &\n`;
}

/** The files whose chains live: each process of a chain has the lock on its file. */
function livingOf(files: string[]): string[] {
  return files.filter((file) => spawnSync("flock", ["-xn", file, "true"]).status !== 0);
}

/** A filesystem on which every write waits, until it is thawed or this process is gone. */
async function freezeFilesystem(dir: string) {
  const [image, folder] = [join(dir, "image"), join(dir, "mount")];
  mkdirSync(folder);
  try {
    execFileSync("truncate", ["-s", "8M", image]);
    execFileSync("mkfs.ext4", ["-q", image]);
    execFileSync("mount", ["-o", "loop", image, folder], { stdio: "pipe" });
  } catch (error) {
    const why = (error as Error).message.split("\n")[0];
    return { folder: undefined, why, thaw: async () => {}, async [Symbol.asyncDispose]() {} };
  }
  const script = 'fsfreeze -f "$1" && echo frozen; cat; fsfreeze -u "$1"; ' +
    'until umount "$1" 2>/dev/null; do sleep 0.05; done';
  const child = spawn("sh", ["-c", script, "freeze", folder], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exit = childExit(child);
  await new Promise((resolve) => child.stdout.once("data", resolve));
  // The unmount waits for whoever still has a file there.
  const thaw = () => Promise.resolve(void child.stdin.end());
  return {
    folder,
    why: "",
    thaw,
    async [Symbol.asyncDispose]() {
      await thaw();
      await exit;
    },
  };
}
