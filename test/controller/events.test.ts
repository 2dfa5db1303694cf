import assert from "node:assert/strict";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import test from "node:test";

import { DIAGNOSTICS_CHANNEL, EventTeller, type LogEvent } from "../../controller/events.ts";

const PLACE = { host: "db1", port: 22, username: "root", privateKey: "-----BEGIN", password: "pw" };
const EVENT = { event: "connect", level: "info", message: "connected", durationMs: 3 } as const;

test("an event goes to the logger and to diagnostics_channel, and carries only what it names", () => {
  const logged: LogEvent[] = [];
  const published: unknown[] = [];
  const listen = (event: unknown) => void published.push(event);
  subscribe(DIAGNOSTICS_CHANNEL, listen);
  new EventTeller(PLACE, (event) => logged.push(event)).tell(EVENT);
  unsubscribe(DIAGNOSTICS_CHANNEL, listen);
  const expected = { ...EVENT, host: "db1", port: 22, username: "root" };
  assert.deepEqual([logged, published], [[expected], [expected]]);
});

test("a logger that throws breaks nothing", () => {
  const teller = new EventTeller(PLACE, () => {
    throw new Error("disk full");
  });
  teller.tell(EVENT);
  new EventTeller(PLACE, undefined).tell(EVENT);
});
