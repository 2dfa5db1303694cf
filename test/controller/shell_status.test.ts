import assert from "node:assert/strict";
import test from "node:test";

import { readStatus } from "../../controller/shell_status.ts";

const LINES = [
  "start",
  "file 1b 348 deploy",
  "holder 4242 0 session-lock-deploy infinity ",
  "file 1b 349 idle",
  "file 1b 350 by-flock",
  "file fd03 351 on-disk",
  "holder 5 1000 bash ",
  "file 1b 352 ../bad",
  "lock 1: FLOCK  ADVISORY  WRITE 4100 00:1b:348 0 EOF",
  "lock 1: -> FLOCK  ADVISORY  WRITE 4300 00:1b:348 0 EOF",
  "lock 2: FLOCK  ADVISORY  READ 77 00:1b:350 0 EOF",
  "lock 3: POSIX  ADVISORY  WRITE 78 00:1b:349 0 EOF",
  "lock 4: FLOCK  ADVISORY  WRITE 5 fd:03:351 0 EOF",
  "lock 5: FLOCK  ADVISORY  WRITE 9 00:1b:352 0 EOF",
];

test("a lock is held where /proc/locks says so, by who has its descriptor", () => {
  const { locks } = readStatus(LINES);
  assert.deepEqual(locks.map(({ name }) => name), ["deploy", "by-flock", "on-disk"]);
  assert.deepEqual(locks[0]?.holders, [
    { kind: "foreign", pid: 4242, uid: 0, command: "session-lock-deploy infinity", shared: false },
  ]);
  assert.deepEqual(locks[1]?.holders, [{ kind: "foreign", pid: 77, shared: true }]);
  assert.deepEqual(locks[2]?.holders, [
    { kind: "foreign", pid: 5, uid: 1000, command: "bash", shared: false },
  ]);
});

test("one lock is listed whether it is held, free, or was never there", () => {
  assert.deepEqual(readStatus(LINES, "idle").locks, [{ name: "idle", holders: [], waiters: [] }]);
  assert.deepEqual(readStatus(LINES, "none").locks, [{ name: "none", holders: [], waiters: [] }]);
  assert.equal(readStatus(LINES, "deploy").locks[0]?.holders.length, 1);
});
