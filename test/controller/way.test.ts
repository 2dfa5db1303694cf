import assert from "node:assert/strict";
import test, { mock } from "node:test";

import { WayMemory } from "../../controller/way.ts";

const ROOT = "/run/sshlock/agent.sock";
const USER = "/run/user/1000/sshlock/agent.sock";

test("the ways are tried from the best to the least", () => {
  const memory = new WayMemory();
  assert.deepEqual(memory.candidates("a@h:22", {}), [
    { way: "streamlocal", socketPath: ROOT },
    { way: "bridge", socketPath: undefined },
    { way: "shell" },
  ]);
});

test("what worked is tried first on that host, and the rest after it", () => {
  const memory = new WayMemory();
  memory.remember("a@h:22", { way: "shell" });
  assert.deepEqual(memory.candidates("a@h:22", {}).map(({ way }) => way), [
    "shell",
    "streamlocal",
    "bridge",
  ]);
  assert.equal(memory.candidates("b@h:22", {})[0]?.way, "streamlocal");
  assert.ok(memory.worked("a@h:22", { way: "shell" }));
  assert.ok(!memory.worked("b@h:22", { way: "shell" }));
});

test("after a minute the better ways get another chance", (t) => {
  let nowMs = 0;
  const clock = mock.method(performance, "now", () => nowMs);
  t.after(() => clock.mock.restore());
  const memory = new WayMemory();
  memory.remember("a@h:22", { way: "shell" });
  nowMs = 59_999;
  assert.equal(memory.candidates("a@h:22", {})[0]?.way, "shell");
  nowMs = 60_000;
  assert.equal(memory.candidates("a@h:22", {})[0]?.way, "streamlocal");
  memory.remember("a@h:22", { way: "streamlocal", socketPath: ROOT });
  nowMs = 1e9;
  assert.ok(memory.worked("a@h:22", { way: "streamlocal", socketPath: ROOT }));
});

test("a forced way and a given socket leave nothing else, whatever is remembered", () => {
  const memory = new WayMemory();
  memory.remember("a@h:22", { way: "shell" });
  assert.deepEqual(memory.candidates("a@h:22", { way: "bridge" }), [
    { way: "bridge", socketPath: undefined },
  ]);
  assert.deepEqual(memory.candidates("a@h:22", { way: "streamlocal", socketPath: "/x" }), [
    { way: "streamlocal", socketPath: "/x" },
  ]);
});

test("a user's own agent is tried directly once the bridge has told where it is", () => {
  const memory = new WayMemory();
  memory.remember("a@h:22", { way: "bridge" });
  memory.learnUserSocket("a@h:22", USER);
  assert.deepEqual(memory.candidates("a@h:22", {}).slice(0, 2), [
    { way: "streamlocal", socketPath: USER },
    { way: "streamlocal", socketPath: ROOT },
  ]);
  // It did not work, the bridge did: learning the same again changes nothing.
  memory.remember("a@h:22", { way: "bridge", socketPath: undefined });
  memory.learnUserSocket("a@h:22", USER);
  assert.equal(memory.candidates("a@h:22", {})[0]?.way, "bridge");
});
