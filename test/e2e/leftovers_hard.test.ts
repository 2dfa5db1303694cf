import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { childExit } from "../support/child.ts";
import { until } from "../support/events.ts";
import { isAlive, readStat } from "../support/processes.ts";
import { requires, root } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import { claim, startHost } from "./leftovers_host.ts";

const skip = requires("sshd", "ssh", "ssh-keygen", "perl", root);

// Each process forks one that goes on, and ends: no pid lives for longer than 30 ms, and none hears TERM.
// After two minutes it is over in any case, should nobody be left to end it.
const STORM = `$SIG{TERM} = $SIG{HUP} = "IGNORE"; setpgrp; $end = time + 120; ` +
  `while (time < $end) { exit 0 if fork; select undef, undef, undef, 0.03 }`;

test(
  "a fork storm of the session is ended before the lock goes to the next",
  { skip },
  async () => {
    await using host = await startHost();
    const mark = `storm-${process.pid}-${Date.now()}`;
    const first = host.open(`
    for i in 1 2 3 4 5 6; do
      setsid perl -e '${STORM}' ${mark} </dev/null >/dev/null 2>&1 &
    done
    echo $$ >$DIR/started`);
    await claim(first, "a", { name: "x", graceMs: 100 });
    await host.pid("started");
    // Not all six: one that forks during the look is seen neither before nor after.
    await until(() => livingWith(mark).length >= 2, { what: "a storm", deadlineMs: 60_000 });
    await first.kill();
    await using second = await host.agent.client("b");
    await second.request("claim", { name: "x", waitMs: 60_000 }, 60_000);
    assert.deepEqual(livingWith(mark), []);
  },
);

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

/** The processes whose command line has a word; those that have ended are not among them. */
function livingWith(word: string): number[] {
  return readdirSync("/proc").map(Number).filter((pid) => {
    try {
      return pid > 0 && readFileSync(`/proc/${pid}/cmdline`, "latin1").split("\0").includes(word);
    } catch {
      return false;
    }
  });
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
