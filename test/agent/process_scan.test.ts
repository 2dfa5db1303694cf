import assert from "node:assert/strict";
import { test } from "node:test";
import { scopeIn } from "../../agent/process_scan.ts";

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
