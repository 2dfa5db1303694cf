import assert from "node:assert/strict";
import test, { mock } from "node:test";

import { Heartbeat } from "../../controller/heartbeat.ts";

/** Time passes here only when it is told to. */
function controlTime(t: { after(end: () => void): void }) {
  let nowMs = 1_000;
  const clock = mock.method(performance, "now", () => nowMs);
  mock.timers.enable({ apis: ["setTimeout"] });
  t.after(() => {
    clock.mock.restore();
    mock.timers.reset();
  });
  return {
    /** Time passes and timers fire. */
    pass(ms: number) {
      for (let left = ms; left > 0; left -= 10) {
        nowMs += 10;
        mock.timers.tick(10);
      }
    },
    /** Time passes while the process is stopped: no timer fires. */
    stop(ms: number) {
      nowMs += ms;
    },
    now: () => nowMs,
  };
}

function start() {
  const seen = { pings: [] as number[], gaveUp: [] as number[] };
  const heartbeat = new Heartbeat({
    ping: () => void seen.pings.push(performance.now()),
    giveUp: (silentMs) => void seen.gaveUp.push(silentMs),
  });
  heartbeat.setTimes(300, 1_000);
  heartbeat.start();
  return { heartbeat, seen };
}

test("a heartbeat pings at its interval as long as it is answered", (t) => {
  const time = controlTime(t);
  const { heartbeat, seen } = start();
  for (let i = 0; i < 10; i++) {
    time.pass(300);
    heartbeat.answered(seen.pings.at(-1) as number);
  }
  assert.equal(seen.pings.length, 10);
  assert.deepEqual(seen.gaveUp, []);
});

test("silence is counted from when the last answered ping was sent, not from its answer", (t) => {
  const time = controlTime(t);
  const { heartbeat, seen } = start();
  time.pass(300);
  const sentMs = seen.pings[0] as number;
  time.pass(290);
  heartbeat.answered(sentMs);
  time.pass(700);
  assert.deepEqual(seen.gaveUp, []);
  time.pass(10);
  assert.equal(seen.gaveUp.length, 1);
});

test("a late answer to an old ping does not undo a newer one", (t) => {
  const time = controlTime(t);
  const { heartbeat, seen } = start();
  time.pass(600);
  heartbeat.answered(seen.pings[1] as number);
  heartbeat.answered(seen.pings[0] as number);
  assert.equal(heartbeat.silentMs, 0);
});

test("a process that was stopped finds out at its first look, before any timer or answer", (t) => {
  const time = controlTime(t);
  const { heartbeat, seen } = start();
  time.pass(300);
  time.stop(5_000);
  heartbeat.check();
  assert.deepEqual(seen.gaveUp, [5_300]);
  heartbeat.answered(time.now());
  heartbeat.start();
  heartbeat.check();
  assert.equal(seen.gaveUp.length, 1);
});

test("nothing is pinged or given up while nothing is held", (t) => {
  const time = controlTime(t);
  const { heartbeat, seen } = start();
  heartbeat.stop();
  time.pass(5_000);
  heartbeat.check();
  assert.deepEqual(seen, { pings: [], gaveUp: [] });
  heartbeat.start();
  time.pass(990);
  assert.deepEqual(seen.gaveUp, []);
});
