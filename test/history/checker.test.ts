import assert from "node:assert/strict";
import test from "node:test";
import { checkHistory } from "./checker.ts";
import { replacedFault } from "./claims.ts";
import { formatEvent, type HistoryEvent, parseHistory } from "./history.ts";
import { type ClaimPlan, eventsOf, historyOf } from "./history_builder.ts";
import type { ViolationKind } from "./violations.ts";

const first: ClaimPlan = { c: "a", granted: 100, acts: [120, 180], release: 200, token: 1 };
const second: ClaimPlan = { c: "b", granted: 300, acts: [320, 380], release: 400, token: 2 };
const third: ClaimPlan = { c: "a", n: 2, granted: 500, acts: [520], release: 600, token: 3 };
/** Killed as it acted; what it left behind went on until 390. */
const killed: ClaimPlan = { c: "k", granted: 300, acts: [320, 350, 390], token: 2 };
const foreign = { way: "shell", token: null } as const;
const team = { owner: "team" };
const none = { count: 0, p99: 0, worst: 0 };
/** In nanoseconds; an answer is on its way for less. */
const wholeSecond = 1e9;

const good: Record<string, HistoryEvent[]> = {
  "nothing at all": [],
  "one after the other": historyOf(first, second, third),
  "a grant at the instant of the release": historyOf(first, { ...second, granted: 200 }),
  "tokens with gaps": historyOf(first, { ...second, token: 7 }, { ...third, token: 1000 }),
  "the ways without tokens in between": historyOf(
    first,
    { ...second, ...foreign },
    { ...third, c: "f", way: "flock", token: null },
    { c: "d", granted: 700, token: 2 },
  ),
  "a grant when the leftovers of a killed session are gone": historyOf(first, killed, third),
  "a grant at the instant of the last act": historyOf(killed, { ...third, granted: 390 }),
  "shared owners together, answered in another order than granted": historyOf(
    { ...first, claimed: 10, shared: true, token: 2 },
    { ...second, claimed: 10, shared: true, token: 1, granted: 110 },
    third,
  ),
  "two locks at the same time": historyOf(first, { ...first, c: "b", l: "other", token: 2 }),
  "a session of the same owner that joins": historyOf(
    { ...first, ...team },
    { ...second, ...team, granted: 150, acts: [160, 290], token: 1, joined: true },
    third,
  ),
  "a join whose company has gone while the answer was on its way": historyOf(
    { ...first, ...team },
    { ...second, ...team, claimed: 190, granted: 250, token: 1, joined: true },
    third,
  ),
  "a join of one that was killed before it read its grant": [
    ...historyOf({ ...team, c: "k", claimed: 90 }, { ...second, ...team, token: 1, joined: true }),
    { e: "agent", event: "lock-granted", claim: "k#1", token: 1, session: "s", t: 110 },
    { e: "agent", event: "session-ending", session: "s", t: 295 },
  ],
  "a claim without an answer": historyOf(first, { c: "x", claimed: 150 }, second),
  "a release that was refused proves nothing": historyOf(
    { ...first, release: 390, releaseCode: "not-held" },
    second,
  ),
  "a grant that a controller hears of when the lock has long been another's": historyOf(
    { c: "far", way: "library", claimed: 10, granted: 350, token: 1 },
    { ...second, claimed: 150 },
    third,
  ),
  "a loss": historyOf({ ...first, release: undefined, lost: 190 }, second),
  "acts after the file was taken away, beside the shell protocol on the new one": [
    ...historyOf({ ...first, acts: [350], release: undefined, lost: 360 }, {
      ...second,
      ...foreign,
    }),
    { e: "fault", kind: replacedFault, l: "deploy", t: 250 },
  ],
  "acts of the shell protocol on a file that was taken away": [
    ...historyOf({ ...first, ...foreign, acts: [350], release: 360 }, second),
    { e: "fault", kind: replacedFault, l: "deploy", t: 250 },
  ],
  "acts after the file was taken away, beside a run that found no agent": [
    ...historyOf({ ...first, acts: [350], release: undefined, lost: 360 }, {
      ...second,
      way: "run",
    }),
    { e: "fault", kind: replacedFault, l: "deploy", t: 250 },
  ],
  "an overtaken claim of an agent that was killed": [
    ...historyOf(
      { ...first, c: "q", claimed: 10, queued: 20, granted: 700, token: 9, acts: [], release: 800 },
      { ...second, claimed: 50, token: 5 },
    ),
    { e: "fault", kind: "agent-killed", t: 40 },
  ],
  "a join that is granted before one that waits": historyOf(
    { ...first, ...team, acts: [], release: 200 },
    { c: "q", claimed: 105, queued: 110, granted: 400, token: 2 },
    {
      ...second,
      ...team,
      claimed: 120,
      granted: 130,
      acts: [],
      release: 140,
      token: 1,
      joined: true,
    },
  ),
  "a claim that came before the other was told that it waits": historyOf(
    { c: "q", claimed: 10, queued: 60, granted: 700, token: 9 },
    { ...second, claimed: 50, token: 5 },
  ),
};

for (const [name, events] of Object.entries(good)) {
  test(`checkHistory() accepts ${name}`, () => {
    assert.deepEqual(checkHistory(events).violations.map((found) => found.message), []);
  });
}

test("checkHistory() takes a release that was never answered for no proof", () => {
  const events = historyOf({ ...first, release: 390 }, second)
    .filter((event) => event.e !== "released" || event.c !== "a");
  assert.equal(checkHistory(events).ok, true);
});

const bad: Record<string, [ViolationKind[], HistoryEvent[]]> = {
  "a grant 1 ns before the release": [["overlap"], historyOf(first, { ...second, granted: 199 })],
  "a grant within another's time": [["overlap"], historyOf({ ...first, release: 900 }, second)],
  "a grant over another ownership": [
    ["overlap", "overlap"],
    historyOf({ ...first, release: 550 }, second, { ...third, c: "c" }),
  ],
  "a leftover that acts after the next grant": [
    ["overlap"],
    historyOf({ ...killed, acts: [320, 501] }, third),
  ],
  "a leftover that acts long after the next owner has gone": [
    ["overlap", "overlap"],
    historyOf({ ...first, acts: [120, 900] }, second, { ...third, c: "c" }),
  ],
  "a leftover that acts after a loss was told": [
    ["overlap"],
    historyOf({ ...killed, acts: [320, 501], lost: 330 }, third),
  ],
  "an overlap with the shell protocol": [
    ["overlap"],
    historyOf(first, { ...second, granted: 150, ...foreign }),
  ],
  "an overlap of two ways without tokens": [
    ["overlap"],
    historyOf({ ...first, ...foreign }, { ...second, granted: 150, way: "flock", token: null }),
  ],
  "a shared grant beside an exclusive one": [
    ["overlap"],
    historyOf(first, { ...second, granted: 150, shared: true }),
  ],
  "an exclusive grant beside a shared one": [
    ["overlap"],
    historyOf({ ...first, shared: true }, { ...second, granted: 150 }),
  ],
  "an exclusive grant beside the longer one of two shared": [
    ["overlap"],
    historyOf(
      { ...first, shared: true, release: 310 },
      { c: "s", claimed: 90, granted: 110, release: 120, token: 2, shared: true },
      { ...second, token: 3 },
    ),
  ],
  "an overlap with a joined session": [
    ["overlap"],
    historyOf(
      { ...first, ...team },
      { c: "j", ...team, granted: 150, acts: [301], token: 1, joined: true },
      second,
    ),
  ],
  "an overlap of locks that were granted after the file was taken away": [
    ["overlap"],
    [
      ...historyOf(
        { ...first, claimed: 150, granted: 3 * wholeSecond, release: 9 * wholeSecond },
        { ...second, ...foreign, granted: 5 * wholeSecond, acts: [], release: 6 * wholeSecond },
      ).filter(({ e }) => e !== "act"),
      { e: "fault", kind: replacedFault, l: "deploy", t: 200 },
    ],
  ],
  "an overlap on another lock than the one whose file was taken away": [
    ["overlap"],
    [
      ...historyOf({ ...first, release: 900 }, { ...second, ...foreign }),
      { e: "fault", kind: replacedFault, l: "other", t: 250 },
    ],
  ],
  "an overlap whose second grant was before the file was taken away": [
    ["overlap"],
    [
      ...historyOf({ ...first, release: 900 }, { ...second, ...foreign }),
      { e: "fault", kind: replacedFault, l: "deploy", t: 350 },
    ],
  ],
  "an overlap of two clients of the agent whose lock's file was taken away": [
    ["overlap"],
    [
      ...historyOf({ ...first, acts: [350], release: undefined, lost: 260 }, second),
      { e: "fault", kind: replacedFault, l: "deploy", t: 250 },
    ],
  ],
  "an overlap with a run of the agent's when the file was taken away": [
    ["overlap"],
    [
      ...historyOf({ ...first, acts: [350], release: undefined, lost: 260 }, {
        ...second,
        way: "run",
      }),
      { e: "agent", event: "lock-granted", claim: "b#1", token: 2, session: "s", t: 299 },
      { e: "fault", kind: replacedFault, l: "deploy", t: 250 },
    ],
  ],
  "an act without a grant": [
    ["act-without-grant"],
    historyOf({ c: "x", refused: 100, acts: [120] }),
  ],
  "an act before the grant": [["act-without-grant"], historyOf({ ...first, acts: [99] })],
  "an act of a client that never claimed": [
    ["act-without-grant"],
    [{ e: "act", c: "ghost", n: 1, by: "self", t: 1 }],
  ],
  "a controller's process that acts within another's time": [
    ["overlap"],
    historyOf({ ...second, acts: [310, 390] }, {
      ...{ c: "far", way: "library", claimed: 10, granted: 330, acts: [350], token: 3 },
    }),
  ],
  "the same token twice": [
    ["token-reused"],
    historyOf(first, { ...second, token: 1, granted: 300 }),
  ],
  "the same token on two locks": [
    ["token-reused"],
    historyOf(first, { ...second, l: "other", token: 1 }),
  ],
  "a lower token": [["token-not-rising"], historyOf({ ...first, token: 3 }, second)],
  "a lower token than before a shell session": [
    ["token-not-rising"],
    historyOf({ ...first, token: 5 }, { ...second, ...foreign }, { ...third, token: 4 }),
  ],
  "a lower token than a killed owner's": [
    ["token-not-rising"],
    historyOf(first, { ...killed, token: 9 }, third),
  ],
  "a lower exclusive token after a shared one": [
    ["token-not-rising"],
    historyOf({ ...first, shared: true, token: 8 }, second),
  ],
  "a lower shared token that was claimed after the other's answer": [
    ["token-not-rising"],
    historyOf({ ...first, shared: true, token: 5 }, { ...second, shared: true, token: 4 }),
  ],
  "no token from the agent": [["token-missing"], historyOf({ ...first, token: null })],
  "a join of another user": [
    ["joined-stranger"],
    historyOf(
      { ...first, ...team, release: 500 },
      { ...second, ...team, uid: 65534, granted: 150, token: 1, joined: true },
    ),
  ],
  "a join of another owner": [
    ["joined-stranger"],
    historyOf({ ...first, release: 500 }, { ...second, granted: 150, token: 1, joined: true }),
  ],
  "a shared claim that joins an exclusive one": [
    ["joined-stranger"],
    historyOf(
      { ...first, ...team, release: 500 },
      { ...second, ...team, shared: true, granted: 150, token: 1, joined: true },
    ),
  ],
  "a join after the last release": [
    ["joined-nobody"],
    historyOf({ ...first, ...team }, { ...second, ...team, token: 1, joined: true }),
  ],
  "a join after the loss was told": [
    ["joined-nobody"],
    historyOf(
      { ...first, ...team, release: undefined, lost: 190 },
      { ...second, ...team, token: 1, joined: true },
    ),
  ],
  "a join of a session that is ending": [
    ["joined-nobody"],
    [
      ...historyOf(
        { ...first, ...team, release: undefined },
        { ...second, ...team, token: 1, joined: true },
      ),
      { e: "agent", event: "lock-granted", claim: "a#1", session: "s", t: 110 },
      { e: "agent", event: "session-ending", session: "s", t: 230 },
    ],
  ],
  "a join of a session that was ending when its agent was killed, and is ended by the next": [
    ["joined-nobody"],
    [
      ...historyOf(
        { ...first, ...team, release: undefined },
        { ...second, ...team, token: 1, joined: true },
      ),
      { e: "agent", event: "lock-granted", claim: "a#1", session: "s", t: 110 },
      { e: "agent", event: "session-ending", session: "s", t: 230 },
      { e: "agent", event: "session-ending", session: "s", t: 310 },
    ],
  ],
  "a join of one that was killed before it read its grant, and is ending": [
    ["joined-nobody"],
    [
      ...historyOf({ ...team, c: "k", claimed: 90 }, {
        ...second,
        ...team,
        token: 1,
        joined: true,
      }),
      { e: "agent", event: "lock-granted", claim: "k#1", token: 1, session: "s", t: 110 },
      { e: "agent", event: "session-ending", session: "s", t: 230 },
    ],
  ],
  "a join of another owner's claim that was killed before it read its grant": [
    ["joined-nobody"],
    [
      ...historyOf({ c: "k", claimed: 90 }, { ...second, ...team, token: 1, joined: true }),
      { e: "agent", event: "lock-granted", claim: "k#1", token: 1, session: "s", t: 110 },
    ],
  ],
  "a join of nobody": [["joined-nobody"], historyOf({ ...first, joined: true })],
  "a claim that overtakes one that waits": [
    ["overtaken"],
    historyOf(
      { c: "q", claimed: 10, queued: 20, granted: 700, token: 9 },
      { ...second, claimed: 50, token: 5 },
    ),
  ],
  "a grant after a refusal": [
    ["malformed"],
    [...eventsOf({ c: "x", refused: 100 }), {
      ...{ e: "granted", c: "x", n: 1, token: 1, joined: false, t: 110 },
    }],
  ],
  "a release of what was never granted": [
    ["malformed"],
    [...eventsOf({ c: "x", refused: 100 }), { e: "release", c: "x", n: 1, t: 110 }],
  ],
  "a grant before its claim": [
    ["malformed"],
    historyOf({ ...first, claimed: 101, acts: [] })
      .filter(({ e }) => e === "claim" || e === "granted"),
  ],
  "an answer to nobody's claim": [["malformed"], [{ e: "refused", c: "x", n: 1, code: "y", t: 1 }]],
  "a claim number that is used twice": [
    ["malformed"],
    [...eventsOf({ c: "x", refused: 100 }), ...eventsOf({ c: "x", refused: 200 }).slice(0, 1)],
  ],
};

for (const [name, [kinds, events]] of Object.entries(bad)) {
  test(`checkHistory() rejects ${name}`, () => {
    assert.deepEqual(checkHistory(events).violations.map((found) => found.kind), kinds);
  });
  test(`checkHistory() rejects ${name}, in any order of the lines`, () => {
    assert.deepEqual(checkHistory(events.toReversed()).ok, false);
  });
}

test("a violation names the events that break the rule", () => {
  const [found] = checkHistory(historyOf(first, { ...second, granted: 150 })).violations;
  assert.match(found!.message, /^b \(local, token 2\) had deploy 0\.000 ms before the last/);
  assert.match(found!.message, /"c":"a","n":1,"token":1.*\n.*"c":"b"/);
});

test("operations are answered claims and answered releases", () => {
  const { operations, answers, grants, acts } = checkHistory(historyOf(
    first,
    { c: "x", claimed: 1 },
    { c: "y", refused: 50 },
    { ...second, release: undefined },
  ));
  assert.equal(operations, 4);
  assert.deepEqual({ answers, grants, acts }, {
    answers: { granted: 2, contended: 1 },
    grants: { local: 2 },
    acts: 4,
  });
});

test("the time to a free lock is measured from the end of its session, and from its last leftover", () => {
  const ms = 1e6;
  const { ends } = checkHistory([
    ...historyOf(
      { c: "k", granted: 10 * ms, acts: [11 * ms, 24 * ms], token: 1 },
      { ...second, granted: 30 * ms, token: 2, acts: [], release: undefined },
      { c: "f", l: "other", granted: 10 * ms, token: 3 },
    ),
    { e: "end", c: "k", how: "sshd-killed", t: 20 * ms },
    { e: "end", c: "f", how: "hung-up", t: 20 * ms },
    { e: "agent", event: "lock-ended", claim: "f#1", t: 23 * ms },
  ]);
  assert.deepEqual(ends, {
    afterEnd: {
      "sshd-killed": { count: 1, p99: 10, worst: 10 },
      "hung-up": { count: 1, p99: 3, worst: 3 },
    },
    afterLeftovers: { count: 1, p99: 6, worst: 6 },
    withoutAgent: { afterEnd: none, afterLeftovers: none },
  });
});

test("an end that no agent could deal with for a while is counted apart", () => {
  const ms = 1e6;
  const history = (...faults: HistoryEvent[]) =>
    checkHistory([
      ...historyOf(
        { c: "k", granted: 10 * ms, acts: [11 * ms, 24 * ms], token: 1 },
        { ...second, granted: 30 * ms, token: 2, acts: [], release: undefined },
      ),
      { e: "end", c: "k", how: "sshd-killed", t: 20 * ms },
      { e: "agent", event: "agent-started", t: 1 * ms },
      { e: "agent", event: "agent-started", t: 22 * ms },
      ...faults,
    ]).ends;
  const apart = {
    ...{ afterEnd: {}, afterLeftovers: none },
    withoutAgent: {
      afterEnd: { count: 1, p99: 10, worst: 10 },
      afterLeftovers: { count: 1, p99: 6, worst: 6 },
    },
  };
  const stopped = { e: "fault", kind: "agent-stopped" } as const;
  assert.deepEqual(history({ e: "fault", kind: "agent-killed", t: 15 * ms }), apart);
  assert.deepEqual(history({ ...stopped, t: 15 * ms, until: 21 * ms }), apart);
  const before = history({ ...stopped, t: 15 * ms, until: 19 * ms });
  assert.deepEqual(before.withoutAgent, { afterEnd: none, afterLeftovers: none });
});

const lines: Record<string, string> = {
  "no JSON": "{",
  "an array": "[]",
  "null": "null",
  "no known event": '{"e":"enter","t":1}',
  "no time": '{"e":"act","c":"a","n":1,"by":"self"}',
  "a time that is no integer": '{"e":"act","c":"a","n":1,"by":"self","t":1.5}',
  "a client that is no text": '{"e":"act","c":1,"n":1,"by":"self","t":1}',
  "a grant without token": '{"e":"granted","c":"a","n":1,"joined":false,"t":1}',
  "a token that is a text": '{"e":"granted","c":"a","n":1,"token":"1","joined":false,"t":1}',
  "a claim without lock": '{"e":"claim","c":"a","n":1,"way":"run","owner":"a","uid":0,"t":1}',
};

for (const [name, line] of Object.entries(lines)) {
  test(`a line with ${name} is malformed, and so is the history`, () => {
    assert.deepEqual(parseHistory(`${line}\n`).map(({ e }) => e), ["malformed"]);
    assert.equal(checkHistory(parseHistory(`${line}\n`)).ok, false);
  });
}

test("a last line that was cut off is malformed", () => {
  const text = formatEvent(eventsOf(first)[0]!);
  assert.equal(parseHistory(text)[0]!.e, "claim");
  assert.equal(parseHistory(text.slice(0, -1))[0]!.e, "malformed");
});

test("parseHistory() reads what formatEvent() writes", () => {
  const events = historyOf(first, second, third);
  assert.deepEqual(parseHistory(events.map(formatEvent).join("")), events);
});
