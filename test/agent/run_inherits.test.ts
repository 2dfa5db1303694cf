// What a command inherits from the caller of run, and what it does not: the lock.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdirSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { commandLine, runCommand, startCommand } from "../support/agent_command.ts";
import {
  agentCommand,
  type AgentDirs,
  makeAgentDirs,
  startAgent,
} from "../support/agent_process.ts";
import { childExit } from "../support/child.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { descendants, killAndConfirm, readStat, signalPid } from "../support/processes.ts";
import { lockPath } from "../support/shell_lock.ts";

function both(name: string, body: (dirs: AgentDirs, t: TestContext) => Promise<void>): void {
  for (const withAgent of [true, false]) {
    test(`${name} (${withAgent ? "agent" : "no agent"})`, async (t) => {
      await using made = await makeAgentDirs();
      await using _agent = withAgent ? await startAgent({ dirs: made.dirs }) : undefined;
      await body(made.dirs, t);
    });
  }
}

/** A shell that calls run in a way of its own; `$@` is run with its options. */
async function inShell(dirs: AgentDirs, script: string) {
  const run = commandLine(dirs, ["run", "x"]);
  const child = spawn("bash", ["-c", script, "bash", ...run], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => stdout += chunk);
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => stderr += chunk);
  const closed = new Promise((resolve) => child.once("close", resolve));
  const { code } = await childExit(child);
  await closed;
  return { code, stdout, stderr };
}

both("the command has no descriptor of the lock, of a socket or of the keeper", async (dirs) => {
  await using run = startCommand(dirs, ["run", "x", "sh", "-c", "echo $$; exec cat"]);
  const pid = Number(await run.out.waitFor(() => true));
  const waits = () => readStat(pid)?.comm === "cat" && readStat(pid)?.state === "S";
  await until(waits, { what: "cat, whose start is over" });
  const targets = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  assert.deepEqual(targets.filter((target) => target.includes("session-lock-")), []);
  assert.deepEqual(targets.filter((target) => target.startsWith("anon_inode:")), []);
  // Its own three, and what this test's own caller has open without close-on-exec.
  const own = readdirSync("/proc/self/fd").length;
  assert.ok(targets.length <= own, targets.join(" "));
});

both("what it leaves in the background does not keep the lock", async (dirs) => {
  const left = "sleep 1000 >/dev/null 2>&1 & echo $!";
  const { code, stdout } = await runCommand(dirs, ["run", "x", "sh", "-c", left]);
  assert.equal(code, 0);
  const outcome = await flock(lockPath(dirs.lockDir, "x"));
  await killAndConfirm(Number(stdout));
  assert.equal(outcome.kind, "held");
  if (outcome.kind === "held") await outcome.holder.end();
});

both("descriptors of the caller reach the command, as in diff <(a) <(b)", async (dirs) => {
  const { code, stdout } = await inShell(dirs, 'exec 7<<<seven; "$@" cat /dev/fd/7 <(echo piped)');
  assert.deepEqual([code, stdout], [0, "seven\npiped\n"]);
});

both("ignored signals stay ignored, as nohup(1) wants it", async (dirs, t) => {
  if (/\bdeno/.test(agentCommand()[0]!)) {
    return t.skip("Deno itself resets what it inherits ignored");
  }
  const script = `trap '' HUP; exec "$@" sh -c 'echo $PPID; kill -HUP $$; echo still; read -r _'`;
  const run = commandLine(dirs, ["run", "x"]);
  const child = spawn("bash", ["-c", script, "bash", ...run], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exit = childExit(child);
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => text += chunk);
  await until(() => text.includes("still"), { what: "a command that HUP did not end" });
  signalPid(Number(text.split("\n")[0]), "SIGHUP");
  child.stdin.end("\n");
  assert.deepEqual(await exit, { code: 0, signal: null });
});

both("closed standard descriptors are no failure", async (dirs) => {
  const file = join(dirs.runtimeDir, "out");
  writeFileSync(file, "");
  const { code, stderr } = await inShell(dirs, `"$@" sh -c 'echo said >${file}' <&- >&-`);
  assert.deepEqual([code, stderr], [0, ""]);
});

both("INT that no terminal sent is passed on", async (dirs) => {
  const script = "trap 'echo caught; exit 3' INT; echo up; read -r _";
  await using run = startCommand(dirs, ["run", "x", "sh", "-c", script]);
  await run.out.waitFor((said) => said === "up");
  assert.ok(descendants(run.pid).length > 0);
  signalPid(run.pid, "SIGINT");
  assert.equal((await run.end).code, 3);
});
