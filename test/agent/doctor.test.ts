import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { runCommand } from "../support/agent_command.ts";
import { makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { assertFound, examine } from "./doctor_findings.ts";

test("in a healthy place nothing is broken, and doctor leaves nothing behind", async () => {
  await using agent = await startAgent();
  await using client = await agent.client("a");
  await client.request("claim", { name: "deploy" });
  const before = readdirSync(agent.dirs.lockDir);
  const report = await examine(agent.dirs);
  const broken = report.findings.filter(({ state }) => state === "fail");
  assert.deepEqual(broken, []);
  assert.equal(report.code, 0);
  assert.deepEqual(readdirSync(agent.dirs.lockDir), before);
  assertFound(report, "lock-folder", "ok", /a local tmpfs, writable, mode 0700$/);
  assertFound(report, "lock-folder-room", "ok", / and \d+ inodes left$/);
  assertFound(report, "holder-file", "ok", /: \d+ bytes, as this program writes it$/);
  assertFound(report, "probe-lock", "ok", /\/proc\/locks names the holder$/);
  assertFound(report, "agent", "ok", /: version \S+, as this program$/);
  assertFound(report, "agent-socket", "ok", /: mode 0600, /);
  assertFound(report, "token-counter", "ok", / is readable and writable$/);
  assertFound(report, "lock-file", "ok", /^1 lock file in .*: each safe to open$/);
  assertFound(report, "holder", "ok", /^1 lock is held: somebody answers for each$/);
  assertFound(report, "lost-lock-file", "ok", /^No process/);
  assertFound(report, "open-files", "ok", /^Limit of open files is /);
  assertFound(report, "libc", "ok", /, (glibc|musl)$/);
  for (const { state, hint } of report.findings) if (state === "ok") assert.equal(hint, undefined);
  const { ok, warn, fail, skip } = report.counts;
  assert.equal(ok! + warn! + fail! + skip!, report.findings.length);
});

test("every check of the host has its say", async () => {
  await using made = await makeAgentDirs();
  const { findings } = await examine(made.dirs);
  const ids = new Set(findings.map(({ id }) => id.replace(/^(logind|sshd)-.*/, "$1")));
  assert.deepEqual([...ids], [
    "libc",
    "bun-variables",
    "kernel",
    "protected-regular",
    "protected-symlinks",
    "ptrace-scope",
    "proc",
    "pid-namespace",
    "open-files",
    "lock-folder",
    "lock-folder-room",
    "lock-file",
    "holder-file",
    "probe-lock",
    "take-over",
    "config-file",
    "agent",
    "token-counter",
    "holder",
    "lost-lock-file",
    "logind",
    "sshd",
    "bash",
    "flock",
    "sleep",
    "login-shell",
  ]);
});

test("the report fits 80 columns, hints below what they mend, and ends with a count", async () => {
  await using made = await makeAgentDirs();
  const { stdout, code } = await runCommand(made.dirs, ["doctor"], { holder: "/no/holder" });
  assert.equal(code, 1);
  assert.ok(!stdout.includes("\x1b"), "colours in a pipe");
  const lines = stdout.trimEnd().split("\n");
  for (const line of lines.slice(0, -2)) {
    assert.match(line, /^(?=.{5} \S)(ok|warn|fail|skip| ) +\S/);
    // A path that is longer than a line stays whole.
    if (line.slice(6).includes(" ")) assert.ok(line.length <= 80, line);
  }
  assert.match(stdout, /^fail {2}Holder \/no\/holder cannot be read: there is no such file$/m);
  assert.match(stdout, /^ {6}hint: sshlock-agent holder --write \/no\/holder$/m);
  assert.match(lines.at(-1)!, /^\d+ ok, \d+ to look at, \d+ broken, \d+ skipped$/);
});

test("without an agent doctor says how to start one, and that is no failure", async () => {
  await using made = await makeAgentDirs();
  const report = await examine(made.dirs);
  assert.equal(report.code, 0);
  assertFound(report, "agent", "warn", /^No agent runs \(.*: no such socket\)$/);
});

test("BUN_OPTIONS in the environment is told", async () => {
  await using made = await makeAgentDirs();
  const report = await examine(made.dirs, { env: { BUN_OPTIONS: "--silent" } });
  assertFound(report, "bun-variables", "warn", /^BUN_OPTIONS in the environment can change /);
});
