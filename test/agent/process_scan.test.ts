import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { isAlive, readStat } from "../../agent/proc.ts";
import { ProcessScan, scopeIn, SESSION_VARIABLE } from "../../agent/process_scan.ts";
import { requires } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";

const SCOPE = "/user.slice/user-1000.slice/session-5.scope";

test("a logind scope has its whole path, so those of a container's sessions are others", () => {
  assert.equal(scopeIn(`0::${SCOPE}\n`), SCOPE);
  const inside = `/machine.slice/systemd-nspawn@db.service/payload${SCOPE}`;
  assert.equal(scopeIn(`0::${inside}\n`), inside);
});

test("what a session has put into groups of their own is in its scope", () => {
  assert.equal(scopeIn(`0::${SCOPE}/job/session-7.scope\n`), SCOPE);
});

test("the scope is found among the groups of cgroup v1, and there may be none", () => {
  assert.equal(scopeIn(`12:pids:${SCOPE}\n1:name=systemd:${SCOPE}\n0::/\n`), SCOPE);
  for (const none of ["", "0::/\n", "0::/system.slice/ssh.service\n", "0::/a/my-session-5.scope"]) {
    assert.equal(scopeIn(none), undefined);
  }
});

test("who is out of descriptors takes nobody for dead", { skip: requires("prlimit") }, () => {
  const pid = String(process.pid);
  const self = readStat(process.pid)!;
  const fds: number[] = [];
  spawnSync("prlimit", ["--pid", pid, "--nofile=200:"]);
  try {
    assert.throws(() => {
      for (;;) fds.push(openSync("/dev/null", "r"));
    }, { code: "EMFILE" });
    assert.throws(() => readStat(process.pid), { code: "EMFILE" });
    assert.equal(isAlive(self), true);
  } finally {
    for (const fd of fds) closeSync(fd);
  }
  assert.deepEqual(readStat(process.pid)?.startTime, self.startTime);
});

/** A process that forks itself and ends, over and over, for as long as the file is there. */
const CHAIN = `use POSIX; $end = time + 120; ` +
  `while (-e $ARGV[0] && time < $end) { fork and POSIX::_exit(0) }`;
/** Processes that come and go below one that stays. */
const CHURN = `while (-e $ARGV[0]) { fork or exit; wait }`;

test("a scan ends beside processes that come and go, and sees a chain of them that is its own", {
  skip: requires("perl"),
}, async () => {
  await using dir = await makeTempDir("process-scan");
  const going = join(dir.path, "going");
  await writeFile(going, "");
  const start = (program: string, env: Record<string, string>): ChildProcess =>
    spawn("perl", ["-e", program, going], { env, stdio: "ignore" });
  const uid = process.getuid!();
  const mark = { name: SESSION_VARIABLE, value: `scan-${process.pid}` };
  const children = [
    start(CHAIN, { [mark.name]: mark.value }),
    ...[1, 2, 3].map(() => start(CHURN, {})),
  ];
  const exits = children.map((child) => once(child, "exit"));
  try {
    for (let scans = 0; scans < 20; scans++) {
      const scan = await ProcessScan.read(new Set());
      assert.notDeepEqual(scan.withVariable(uid, mark), [], `scan ${scans}`);
    }
  } finally {
    await rm(going);
    await Promise.all(exits);
  }
  const lastSeen = async () => (await ProcessScan.read(new Set())).withVariable(uid, mark);
  for (let left = await lastSeen(); left.length > 0; left = await lastSeen());
});

/** A process that becomes another program, over and over: its pid and its environment stay. */
const EXECS = `exec $^X, "-e", @ARGV[0, 0, 1, 2] if -e $ARGV[1] && time < $ARGV[2]`;

test("a process that is just becoming another program is not taken for one without a session", {
  skip: requires("perl"),
}, async () => {
  await using dir = await makeTempDir("process-scan");
  const going = join(dir.path, "going");
  await writeFile(going, "");
  const until = `${Math.round(Date.now() / 1000) + 120}`;
  const uid = process.getuid!();
  const children = [1, 2, 3].map((index) => {
    const mark = { name: SESSION_VARIABLE, value: `exec-${process.pid}-${index}` };
    const env = { [mark.name]: mark.value };
    return { mark, child: spawn("perl", ["-e", EXECS, EXECS, going, until], { env }) };
  });
  const exits = children.map(({ child }) => once(child, "exit"));
  try {
    for (let scans = 0; scans < 12; scans++) {
      const scan = await ProcessScan.read(new Set());
      for (const { mark, child: { pid } } of children) {
        const seen = [...scan.withVariable(uid, mark), ...scan.starting(uid)];
        assert.ok(seen.some((stat) => stat.pid === pid), `scan ${scans}`);
      }
    }
  } finally {
    await rm(going);
    await Promise.all(exits);
  }
});
