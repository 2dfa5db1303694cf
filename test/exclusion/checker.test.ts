import assert from "node:assert/strict";
import test from "node:test";
import { checkHistory } from "./checker.ts";
import type { ViolationKind } from "./acts.ts";
import { formatEvent, type HistoryEvent, parseHistory } from "./history.ts";
import { type ActPlan, eventsOf, historyOf } from "./history_builder.ts";

const first: ActPlan = { owner: "a", from: 100, to: 200, token: 1, read: 0 };
const second: ActPlan = { owner: "b", from: 300, to: 400, token: 2, read: 1 };
const third: ActPlan = { owner: "a", from: 500, to: 600, token: 3, read: 2 };
const killed: ActPlan = { owner: "k", from: 300, deadAt: 400, token: 2, read: 1 };
const shared = { mode: "shared", read: null } as const;

const good: Record<string, HistoryEvent[]> = {
  "nothing at all": [],
  "one act after the other": historyOf([first, second, third], 3),
  "an act that begins as the other ends": historyOf([first, { ...second, from: 200 }], 2),
  "tokens with gaps": historyOf([first, { ...second, token: 7 }, { ...third, token: 1000 }], 3),
  "acts without token between those with one": historyOf([
    first,
    { ...second, way: "shell", token: null },
    { ...third, owner: "c", from: 450, to: 480, way: "flock", token: null },
    { ...third, token: 2, read: 3 },
  ], 4),
  "a killed owner that had not written yet": historyOf([first, killed, { ...third, read: 1 }], 2),
  "a killed owner that had written": historyOf([first, killed, third], 3),
  "a killed owner at the end, written": historyOf([first, killed], 2),
  "a killed owner at the end, not written": historyOf([first, killed], 1),
  "an entry at the instant of the death": historyOf([first, killed, { ...third, from: 400 }], 3),
  "a death between two acts": historyOf([{ ...first, deadAt: 250 }, second], 2),
  "a death after the last event of all": historyOf([{ ...first, deadAt: 10_000 }, second], 2),
  "shared owners together, in another order than their tokens": historyOf([
    { owner: "a", from: 100, to: 200, token: 2, ...shared },
    { owner: "b", from: 110, to: 190, token: 1, ...shared },
    { owner: "c", from: 200, to: 300, token: 3, read: 0 },
  ], 1),
  "two locks at the same time": [
    ...historyOf([first], 1),
    ...eventsOf({ ...second, lock: "other", from: 150, to: 160, token: 1, read: 0 }),
    { event: "final", lock: "other", counter: 1 },
  ],
  "a loss after the exit": withLoss(first, 250),
  "a loss during the act": withLoss(first, 150),
};

for (const [name, events] of Object.entries(good)) {
  test(`checkHistory() accepts ${name}`, () => {
    const verdict = checkHistory(events);
    assert.deepEqual(verdict.violations.map((found) => found.message), []);
    assert.equal(verdict.ok, true);
  });
}

const bad: Record<string, [ViolationKind[], HistoryEvent[]]> = {
  "an overlap by 1 ns": [["overlap"], historyOf([first, { ...second, from: 199 }], 2)],
  "an act within another": [["overlap"], historyOf([{ ...first, to: 900 }, second], 2)],
  "an instant within another act": [
    ["overlap"],
    historyOf([{ ...first, to: 900 }, { ...second, to: 300 }], 2),
  ],
  "two entries at the same instant": [["overlap"], historyOf([first, { ...second, from: 100 }], 2)],
  "an overlap over another act": [
    ["overlap", "overlap"],
    historyOf([{ ...first, to: 550 }, second, { ...third, owner: "c" }], 3),
  ],
  "an overlap with the shell protocol": [
    ["overlap"],
    historyOf([first, { ...second, from: 150, way: "shell", token: null }], 2),
  ],
  "an overlap of two ways without tokens": [
    ["overlap"],
    historyOf([
      { ...first, way: "flock", token: null },
      { ...second, from: 150, way: "shell", token: null },
    ], 2),
  ],
  "a shared entry into an exclusive act": [
    ["overlap"],
    historyOf([first, { ...second, from: 150, ...shared }], 1),
  ],
  "an exclusive entry into a shared act": [
    ["overlap"],
    historyOf([{ ...first, ...shared }, { ...second, from: 150, read: 0 }], 1),
  ],
  "an exclusive entry into the longer one of two shared acts": [
    ["overlap"],
    historyOf([
      { ...first, to: 310, ...shared },
      { owner: "c", from: 110, to: 120, token: 2, ...shared },
      { ...second, token: 3, read: 0 },
    ], 1),
  ],
  "an entry before the killed owner's death is confirmed": [
    ["overlap"],
    historyOf([first, killed, { ...third, from: 399 }], 3),
  ],
  "an act without exit and without death": [
    ["overlap"],
    historyOf([first, { ...killed, deadAt: undefined }, third], 3),
  ],
  "an owner that enters again without exit": [
    ["enter-while-acting"],
    historyOf([{ ...first, to: undefined }, { ...second, owner: "a" }], 2),
  ],
  "an equal token": [["token-not-rising"], historyOf([first, { ...second, token: 1 }], 2)],
  "a lower token": [["token-not-rising"], historyOf([{ ...first, token: 3 }, second], 2)],
  "a token lower than that before a shell act": [
    ["token-not-rising"],
    historyOf([
      { ...first, token: 5 },
      { ...second, way: "shell", token: null },
      { ...third, token: 4 },
    ], 3),
  ],
  "a token lower than a killed owner's": [
    ["token-not-rising"],
    historyOf([first, { ...killed, token: 9 }, third], 3),
  ],
  "a shared token that is used twice": [
    ["token-not-rising"],
    historyOf([
      { ...first, ...shared },
      { ...second, from: 150, token: 1, ...shared },
    ], 0),
  ],
  "a shared token lower than an exclusive one before": [
    ["token-not-rising"],
    historyOf([{ ...first, token: 3 }, { ...second, ...shared }], 1),
  ],
  "an exclusive token lower than a shared one before": [
    ["token-not-rising"],
    historyOf([{ ...first, token: 3, ...shared }, { ...second, read: 0 }], 1),
  ],
  "an agent's entry without token": [["token-missing"], historyOf([{ ...first, token: null }], 1)],
  "an entry with another token than its grant": [
    ["token-changed"],
    change(historyOf([first], 1), "enter", { token: 2 }, { exit: { token: 2 } }),
  ],
  "an exit with another token": [
    ["token-changed"],
    change(historyOf([first], 1), "exit", { token: 2 }),
  ],
  "an exclusive entry with a shared grant": [
    ["token-changed"],
    change(historyOf([first], 1), "grant", { mode: "shared" }),
  ],
  "a value that is read twice": [
    ["duplicate-read", "lost-increment"],
    historyOf([first, { ...second, read: 0 }, { ...third, read: 1 }], 3),
  ],
  "a value that is read twice, hidden at the end": [
    ["duplicate-read"],
    historyOf([first, { ...second, read: 0 }], 1),
  ],
  "a value that nobody wrote": [["lost-increment"], historyOf([first, { ...second, read: 5 }], 6)],
  "a read behind a killed owner's": [
    ["duplicate-read"],
    historyOf([first, killed, { ...third, read: 0 }], 1),
  ],
  "a counter that ends too low": [["lost-increment"], historyOf([first, second], 1)],
  "a counter that ends too high": [["lost-increment"], historyOf([first, second], 3)],
  "a counter that ends two behind a killed owner": [
    ["lost-increment"],
    historyOf([first, killed], 3),
  ],
  "an increment by two": [
    ["wrong-increment", "lost-increment"],
    change(historyOf([first], 2), "exit", { counterAfter: 2 }),
  ],
  "an exclusive act that read nothing": [
    ["wrong-increment", "lost-increment", "lost-increment"],
    change(historyOf([first], 1), "enter", { counterBefore: null }),
  ],
  "a missing final counter": [["no-final-counter"], historyOf([first], 1).slice(0, -1)],
  "an exit without entry": [
    ["exit-without-enter", "lost-increment"],
    historyOf([first, second], 2).filter((e) => e.event !== "enter" || e.owner !== "b"),
  ],
  "an entry without grant": [
    ["enter-without-grant"],
    historyOf([first], 1).filter((e) => e.event !== "grant"),
  ],
  "two entries under one grant": [
    ["enter-without-grant"],
    historyOf([first, second, third], 3).filter((e) => e.event !== "grant" || e.tMonoNs !== 499n),
  ],
  "an entry after a loss": [["enter-after-loss"], withLoss(first, 99)],
  "an exit after the death": [["act-after-death"], historyOf([{ ...first, deadAt: 199 }], 1)],
  "an entry after the death": [
    ["act-after-death", "act-after-death", "act-after-death"],
    historyOf([{ ...first, deadAt: 50 }], 1),
  ],
  "two deaths of one owner": [
    ["malformed"],
    [...historyOf([first], 1), ...[500n, 600n].map((tMonoNs) => dead("a", tMonoNs))],
  ],
  "a clock that goes backwards": [
    ["clock-backwards"],
    historyOf([third, first].map((plan, i) => ({ ...plan, read: 1 - i, token: 2 - i })), 2),
  ],
  "a malformed line": [["malformed"], [...parseHistory("{}\n"), ...historyOf([first], 1)]],
};

for (const [name, [kinds, events]] of Object.entries(bad)) {
  test(`checkHistory() rejects ${name}`, () => {
    const verdict = checkHistory(events);
    assert.deepEqual(verdict.violations.map((found) => found.kind), kinds);
    assert.equal(verdict.ok, false);
  });
}

test("checkHistory() does not depend on how the owners' logs are mixed", () => {
  const events = historyOf([first, { ...second, from: 199 }, { ...third, owner: "c" }], 3);
  const byOwner = ["c", "b", "a"].flatMap((owner) =>
    events.filter((e) => "owner" in e && e.owner === owner)
  );
  const mixed = [events.at(-1) as HistoryEvent, ...byOwner];
  assert.deepEqual(checkHistory(mixed), checkHistory(events));
});

test("a violation names both events and by how much they overlap", () => {
  const { violations } = checkHistory(historyOf([first, { ...second, from: 199 }], 2));
  const message = violations[0]?.message ?? "";
  assert.match(message, /^b enters while a acts on deploy \(which ends 1 ns later, by exit\)\n/);
  assert.match(message, /"event":"enter","owner":"a".*"tMonoNs":"100"/);
  assert.match(message, /"event":"enter","owner":"b".*"tMonoNs":"199"/);
});

test("checkHistory() counts the acts and those that a death cut off", () => {
  const verdict = checkHistory(historyOf([first, killed, third], 3));
  assert.deepEqual([verdict.acts, verdict.cutOff], [3, 1]);
});

test("parseHistory() reads back what formatEvent() wrote", () => {
  const events: HistoryEvent[] = [
    ...withLoss({ ...first, from: 2 ** 53 }, 2 ** 53 + 2),
    ...historyOf([killed], 1),
  ];
  assert.deepEqual(parseHistory(events.map(formatEvent).join("")), events);
});

const badLines = {
  "no JSON": "{",
  "no object": "null",
  "no known event": '{"event":"enters"}',
  "half a line": formatEvent(historyOf([first], 1)[1] as HistoryEvent).slice(0, 60),
  "no owner": '{"event":"dead","owner":"","tMonoNs":"1"}',
  "a time that lost digits": '{"event":"dead","owner":"a","tMonoNs":1}',
  "a negative time": '{"event":"dead","owner":"a","tMonoNs":"-1"}',
  "a counter that is no integer": '{"event":"final","lock":"deploy","counter":1.5}',
  "a token that is text": formatEvent(historyOf([first], 1)[0] as HistoryEvent)
    .replace('"token":1', '"token":"1"'),
  "an unknown way": formatEvent(historyOf([first], 1)[0] as HistoryEvent)
    .replace('"agent"', '"carrier pigeon"'),
  "a missing counter": formatEvent(historyOf([first], 1)[1] as HistoryEvent)
    .replace('"counterBefore"', '"before"'),
  "an unknown mode": formatEvent(historyOf([first], 1)[0] as HistoryEvent)
    .replace('"exclusive"', '"mine"'),
};

for (const [name, line] of Object.entries(badLines)) {
  test(`checkHistory() rejects a line with ${name}`, () => {
    const { violations } = checkHistory(parseHistory(`${line.trimEnd()}\n`));
    assert.deepEqual(violations.map((found) => found.kind), ["malformed"]);
  });
}

test("checkHistory() rejects a last line without newline: its writer may have been cut off", () => {
  const text = historyOf([first], 1).map(formatEvent).join("").trimEnd();
  assert.deepEqual(checkHistory(parseHistory(text)).violations[0]?.kind, "malformed");
});

function dead(owner: string, tMonoNs: bigint): HistoryEvent {
  return { event: "dead", owner, tMonoNs };
}

/** The act, with a loss at the given time, put where that time belongs in the owner's log. */
function withLoss(plan: ActPlan, atNs: number): HistoryEvent[] {
  const events = historyOf([plan], 1);
  const grant = events[0] as HistoryEvent & { event: "grant" };
  const loss = { ...grant, event: "loss" as const, tMonoNs: BigInt(atNs) };
  const later = events.findIndex((event) => !("tMonoNs" in event) || event.tMonoNs > loss.tMonoNs);
  // A loss at the very time of the grant was written after it.
  return events.toSpliced(Math.max(later, 1), 0, loss);
}

/** The history with fields of one kind of event (and of further kinds) changed. */
function change(
  events: HistoryEvent[],
  kind: HistoryEvent["event"],
  fields: Record<string, unknown>,
  more: Record<string, Record<string, unknown>> = {},
): HistoryEvent[] {
  return events.map((event) =>
    ({
      ...event,
      ...(event.event === kind ? fields : {}),
      ...more[event.event],
    }) as HistoryEvent
  );
}
