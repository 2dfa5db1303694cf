import assert from "node:assert/strict";
import { test } from "node:test";
import { judgeKernel, judgePtraceScope } from "../../agent/doctor/kernel.ts";
import { judgeRemoveIpc, parseLogindSettings } from "../../agent/doctor/logind.ts";
import { judgeSshdSettings } from "../../agent/doctor/sshd_settings.ts";

test("an old kernel is told with what it lacks", () => {
  assert.equal(judgeKernel("6.1.0-18-amd64").state, "ok");
  assert.equal(judgeKernel("5.9.0").state, "ok");
  assert.match(judgeKernel("5.8.18").what, /lacks close_range\(2\)$/);
  assert.match(
    judgeKernel("4.19.0-26").what,
    /lacks pidfd_open\(2\), pidfd_getfd\(2\), close_range/,
  );
});

test("ptrace_scope matters to agents that are not root, and at 3 to all", () => {
  const state = (value: number | undefined, uid: number) => judgePtraceScope(value, uid).state;
  assert.deepEqual([undefined, 0, 1, 2, 3].map((value) => state(value, 0)), [
    ...["ok", "ok", "ok", "ok", "warn"],
  ]);
  assert.deepEqual([undefined, 0, 1, 2].map((value) => state(value, 1000)), [
    ...["ok", "ok", "ok", "warn"],
  ]);
  assert.match(judgePtraceScope(2, 1000).what, /an agent of this user may not take locks over/);
});

test("the last setting of a name in logind's files counts", () => {
  const main = "[Login]\n#RemoveIPC=no\nKillUserProcesses = yes\nRemoveIPC=yes\n";
  assert.deepEqual(parseLogindSettings([main, "[Login]\nRemoveIPC=no\n"]), {
    KillUserProcesses: "yes",
    RemoveIPC: "no",
  });
  assert.equal(parseLogindSettings(["RemoveIPC=no", "RemoveIPC="]).RemoveIPC, undefined);
});

test("RemoveIPC matters where normal users own lock files in /dev/shm", () => {
  const root = { lockDir: "/dev/shm", uid: 0 };
  assert.equal(judgeRemoveIpc("no", ["session-lock-x"], root).state, "ok");
  assert.equal(judgeRemoveIpc("yes", [], root).state, "ok");
  assert.equal(judgeRemoveIpc("yes", [], { lockDir: "/dev/shm", uid: 1000 }).state, "warn");
  assert.equal(judgeRemoveIpc("yes", ["session-lock-x"], { lockDir: "/x", uid: 0 }).state, "ok");
  const bad = judgeRemoveIpc("yes", ["session-lock-x", "session-lock-y"], root);
  assert.equal(bad.state, "warn");
  assert.match(bad.what, /unlinks session-lock-x and 1 more when its user logs out/);
});

test("sshd's settings are judged one by one", () => {
  const states = (output: string) => judgeSshdSettings(output).map(({ state }) => state);
  const good = [
    "maxsessions 10",
    "clientaliveinterval 15",
    "clientalivecountmax 3",
    "allowstreamlocalforwarding yes",
    "disableforwarding no",
  ];
  assert.deepEqual(states(good.join("\n")), ["ok", "ok", "ok", "ok"]);
  const bad = [
    "maxsessions 1",
    "clientaliveinterval 0",
    "allowstreamlocalforwarding no",
    "channeltimeout session:*=5m",
  ];
  assert.deepEqual(states(bad.join("\n")), ["warn", "warn", "warn", "warn"]);
  assert.equal(states("disableforwarding yes")[0], "warn");
  assert.equal(states("maxsessions 0")[1], "fail");
});
