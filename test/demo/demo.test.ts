import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import test from "node:test";

import { whyNoAgent } from "../support/agent_process.ts";
import { childExit, eachLine } from "../support/child.ts";
import { EventLog, until } from "../support/events.ts";
import { descendants, isAlive, processesWithLockIn } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";

const skip = whyNoAgent() ??
  requires("dist/controller/mod.js", "sshd", "ssh", "ssh-keygen", "flock", "lslocks", "pgrep");

// What has to come, in this order; what is between them does not matter.
const STEPS: readonly RegExp[] = [
  /^ +\d+ ms +demo +a private sshd listens on 127\.0\.0\.1:\d+$/,
  /^ +\d+ ms +alice +has "demo": token \d+, holder \d+/,
  /^ +\d+ ms +kernel +lslocks: \d+ FLOCK WRITE/,
  /^ +\d+ ms +kernel +pgrep -af session-lock: \d+ session-lock-demo infinity$/,
  /^ +\d+ ms +bob +is refused after .*: Cannot claim "demo" on 127\.0\.0\.1: held by alice/,
  /^ +\d+ ms +shell +is refused: exit code 124, "Another session active: +demo"$/,
  /^ +\d+ ms +shell +has "other": process \d+$/,
  /^ +\d+ ms +bob +is refused: Cannot claim "other" .*foreign holder \(pid \d+/,
  /^ +\d+ ms +bob +waits for "demo" at place 1$/,
  /^ +\d+ ms +demo +kill -9 \d+ \(alice\)$/,
  /^ +\d+ ms +bob +has "demo" .* later: token \d+, holder \d+$/,
  /^ +\d+ ms +carol +claim \d+\.\d ms, shell protocol \d+\.\d ms: \d+\.\d times (faster|slower)$/,
  /^Shown: one owner at a time/,
];

test("the demo shows each step in order and leaves nothing behind", { skip }, async () => {
  await using dir = await makeTempDir("demo-test");
  const demo = startDemo(dir.path);
  const { code } = await demo.exit;
  assert.equal(code, 0, demo.stderr());
  const lines = demo.lines.all;
  let next = 0;
  for (const line of unwrapped(lines)) if (STEPS[next]?.test(line)) next++;
  assert.equal(next, STEPS.length, `${STEPS[next]} is missing in\n${lines.join("\n")}`);
  assert.deepEqual(lines.filter((line) => line.length > 80), []);
  assert.ok(!lines.some((line) => line.includes("\x1b")), "colours in a pipe");
  const times = lines.map((line) => /^ +(\d+) ms /.exec(line)?.[1]).filter((ms) =>
    ms !== undefined
  );
  assert.deepEqual(times, [...times].sort((a, b) => Number(a) - Number(b)));
  const tokens = lines.map((line) => /token (\d+),/.exec(line)?.[1]).filter((t) => t !== undefined);
  assert.equal(tokens.length, 2);
  assert.ok(Number(tokens[1]) > Number(tokens[0]));
  await assertNothingIsLeft(demo, dir.path);
});

for (
  const [signal, line] of [["SIGINT", /waits for "demo"/], ["SIGTERM", /has "other"/]] as const
) {
  test(`the demo cleans up after ${signal} in the middle`, { skip }, async () => {
    await using dir = await makeTempDir("demo-test");
    const demo = startDemo(dir.path);
    await demo.lines.waitFor((text) => line.test(text), { deadlineMs: 60_000 });
    const started = descendants(demo.pid).map(({ pid }) => pid);
    assert.ok(started.length > 0);
    // A terminal's Ctrl-C reaches every process of the group.
    process.kill(signal === "SIGINT" ? -demo.pid : demo.pid, signal);
    const { code } = await demo.exit;
    assert.equal(code, 130, demo.stderr());
    assert.match(demo.stderr(), new RegExp(`stopped by ${signal}`));
    for (const pid of started) await until(() => !isAlive(pid), { what: `the end of ${pid}` });
    await assertNothingIsLeft(demo, dir.path);
  });
}

/** The lines with what was wrapped at 80 columns put back: how long they are depends on figures. */
function unwrapped(lines: readonly string[]): string[] {
  return lines.join("\n").replace(/\n {12,}/g, " ").split("\n");
}

interface Demo {
  readonly pid: number;
  readonly lines: EventLog<string>;
  readonly exit: Promise<{ code: number | null }>;
  stderr(): string;
}

/** In a process group of its own, with all its temporary files in this folder. */
function startDemo(dir: string): Demo {
  const child: ChildProcess = spawn(process.execPath, ["build/run.mjs", "demo/demo.ts"], {
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
    env: { ...process.env, TMPDIR: dir },
  });
  const exit = childExit(child);
  const closed = new Promise((resolve) => child.once("close", resolve));
  const lines = new EventLog<string>();
  let stderr = "";
  eachLine(child.stderr as NodeJS.ReadableStream, (line) => stderr += `${line}\n`);
  eachLine(child.stdout as NodeJS.ReadableStream, (line) => lines.push(line));
  closed.then(() => lines.end("the demo has ended"));
  return {
    pid: child.pid as number,
    lines,
    exit: closed.then(() => exit),
    stderr: () => stderr,
  };
}

async function assertNothingIsLeft(demo: Demo, dir: string): Promise<void> {
  const lockDir = demo.lines.all.map((line) => /locks in (\S+)$/.exec(line)?.[1])
    .find((path) => path !== undefined);
  assert.ok(lockDir !== undefined);
  assert.ok(!existsSync(lockDir), `${lockDir} is still there`);
  assert.deepEqual(processesWithLockIn(lockDir), []);
  assert.deepEqual(readdirSync(dir), []);
  // Its group has nobody left but, for a moment, what init has not waited for yet.
  await until(() => !hasGroup(demo.pid), { what: "the end of the demo's process group" });
}

function hasGroup(leader: number): boolean {
  try {
    return process.kill(-leader, 0);
  } catch {
    return false;
  }
}
