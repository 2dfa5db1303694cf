import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { copyFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { promisify } from "node:util";
import { LeftoverSearch } from "../../agent/leftovers.ts";
import { isAlive, readStat } from "../../agent/proc.ts";
import { until } from "../support/events.ts";
import { requires } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";

/** Forks a process that is busy while one file is there, and then sleeps while another one is. */
const ORPHAN = `
  if (my $pid = fork) { print $pid; exit }
  close STDOUT;
  close STDERR;
  $end = time + 60;
  1 while -e $ARGV[0] && time < $end;
  select undef, undef, undef, 0.1 while -e $ARGV[1] && time < $end;
`;

test("what an sshd has forked, and is no command yet when that is killed, is waited for", {
  skip: requires("perl"),
}, async () => {
  await using dir = await makeTempDir("leftovers");
  const [sshd, busy, there] = ["sshd", "busy", "there"].map((name) => join(dir.path, name));
  await copyFile("/usr/bin/perl", sshd!);
  await Promise.all([busy!, there!].map((file) => writeFile(file, "")));
  const { stdout } = await promisify(execFile)(sshd!, ["-e", ORPHAN, busy!, there!], { env: {} });
  const orphan = readStat(Number(stdout))!;
  const search = new LeftoverSearch(() => new Set());
  const find = (startTime: number) =>
    search.find({
      // An sshd that is gone; its pid may be any.
      root: { pid: process.pid, startTime },
      uid: process.getuid!(),
      variable: { name: "SSH_CONNECTION", value: "of nobody" },
    }).then((found) => found.filter(({ pid }) => pid === orphan.pid));
  try {
    const isSeen = async () => (await find(orphan.startTime))[0];
    const seen = await until(isSeen, { what: "the process" });
    assert.deepEqual([seen.comm, seen.isShared], ["sshd", true]);
    assert.deepEqual(await find(orphan.startTime + 1), [], "begun before the session");
    await rm(busy!);
    // One that sleeps is an sshd whose parent was stopped: of another session.
    await until(async () => await isSeen() === undefined, { what: "another session's" });
    assert.ok(isAlive(orphan));
  } finally {
    await Promise.all([busy!, there!].map((file) => rm(file, { force: true })));
    await until(() => !isAlive(orphan), { what: "its end" });
  }
});
