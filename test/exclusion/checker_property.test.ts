import test from "node:test";
import assert from "node:assert/strict";
import fc from "fast-check";
import { checkHistory } from "./checker.ts";
import type { EnterEvent, ExitEvent, HistoryEvent, Way } from "./history.ts";
import { type ActPlan, eventsOf } from "./history_builder.ts";

/** One step of a valid history, in relative numbers, so that any choice of them is valid. */
interface Step {
  way: Way;
  owner: number;
  gap: number;
  length: number;
  tokenGap: number;
  killed: boolean;
  wrote: boolean;
}

const step: fc.Arbitrary<Step> = fc.record({
  way: fc.constantFrom("agent", "bridge", "shell", "flock"),
  owner: fc.nat(3),
  gap: fc.nat(50),
  length: fc.integer({ min: 2, max: 50 }),
  tokenGap: fc.integer({ min: 1, max: 5 }),
  killed: fc.boolean(),
  wrote: fc.boolean(),
});
const steps = fc.array(step, { minLength: 3, maxLength: 30 });

/** A valid history: acts one after the other, killed ones among them, owners in a random mixture. */
const validHistory = fc.tuple(steps, fc.array(fc.nat(), { minLength: 200, maxLength: 200 }))
  .map(([chosen, order]) => mix(buildHistory(chosen), order));

test("checkHistory() accepts every history in which one acts after the other", () => {
  fc.assert(fc.property(validHistory, (events) => {
    assert.deepEqual(checkHistory(events).violations, []);
  }));
});

/** Breaks a valid history in one place, chosen by `at`; `undefined` when it has no such place. */
type Mutation = (events: HistoryEvent[], at: number) => HistoryEvent[] | undefined;

const mutations: Record<string, Mutation> = {
  "an entry moved back to 1 ns before the end of the act before it": (events, at) => {
    const found = pickPair(events, at);
    if (found === undefined) return undefined;
    const end = endOf(events, found.first);
    return found.first.tMonoNs + 1n >= end ? undefined : moveEntry(events, found.second, end - 1n);
  },
  "an exit moved 1 ns past the next entry": (events, at) => {
    const found = pickPair(events, at);
    const exit = found && exitOf(events, found.first);
    if (found === undefined || exit === undefined) return undefined;
    // Later events of that owner would make its log run backwards; that is a rejection too.
    return replace(events, exit, { ...exit, tMonoNs: found.second.tMonoNs + 1n });
  },
  "a token lowered to the one before it": (events, at) => {
    const withToken = entries(events).filter((enter) => enter.token !== null);
    if (withToken.length < 2) return undefined;
    const index = 1 + at % (withToken.length - 1);
    const [before, enter] = [withToken[index - 1] as EnterEvent, withToken[index] as EnterEvent];
    return events.map((event) =>
      "token" in event && event.token === enter.token ? { ...event, token: before.token } : event
    );
  },
  "a value that was read before": (events, at) => {
    const done = entries(events).filter((enter) => exitOf(events, enter) !== undefined);
    if (done.length < 2) return undefined;
    const index = 1 + at % (done.length - 1);
    const [before, enter] = [done[index - 1] as EnterEvent, done[index] as EnterEvent];
    const read = before.counterBefore as number;
    const exit = exitOf(events, enter) as ExitEvent;
    return replace(
      replace(events, enter, { ...enter, counterBefore: read }),
      exit,
      { ...exit, counterAfter: read + 1 },
    );
  },
  "a final counter two off": (events, at) =>
    events.map((event) =>
      event.event === "final"
        ? { ...event, counter: event.counter + (at % 2 === 0 ? 2 : -2) }
        : event
    ),
  "a death that was never confirmed": (events, at) => {
    // The last act may stay open: nobody enters after it.
    const cut = entries(events).slice(0, -1).filter((e) => exitOf(events, e) === undefined);
    const enter = cut[at % Math.max(cut.length, 1)];
    if (enter === undefined) return undefined;
    return events.filter((event) => event.event !== "dead" || event.owner !== enter.owner);
  },
  "an act without its entry": (events, at) => {
    const done = entries(events).filter((enter) => exitOf(events, enter) !== undefined);
    const enter = done[at % Math.max(done.length, 1)];
    return enter && events.filter((event) => event !== enter);
  },
  "an act without its grant": (events, at) => {
    const grants = events.filter((event) => event.event === "grant");
    const grant = grants[at % grants.length];
    return events.filter((event) => event !== grant);
  },
  "a line that is no event": (events, at) =>
    events.toSpliced(at % events.length, 0, { event: "malformed", line: "{", reason: "cut off" }),
};

for (const [name, mutate] of Object.entries(mutations)) {
  test(`checkHistory() rejects every valid history with ${name}`, () => {
    fc.assert(fc.property(validHistory, fc.nat(), (events, at) => {
      const broken = mutate(events, at);
      fc.pre(broken !== undefined);
      assert.equal(checkHistory(broken).ok, false);
    }));
  });
}

function buildHistory(chosen: readonly Step[]): HistoryEvent[] {
  const events: HistoryEvent[] = [];
  const generation = [0, 0, 0, 0];
  let [now, counter, highest] = [1, 0, 0];
  for (const step of chosen) {
    const from = now + step.gap + 1;
    const plan: ActPlan = {
      owner: `${step.owner}#${generation[step.owner]}`,
      way: step.way,
      from,
      read: counter,
      token: step.way === "shell" || step.way === "flock" ? null : highest += step.tokenGap,
      ...(step.killed ? { deadAt: from + step.length } : { to: from + step.length }),
    };
    events.push(...eventsOf(plan));
    // A killed owner never comes back under its name.
    if (step.killed) generation[step.owner]! += 1;
    if (!step.killed || step.wrote) counter++;
    now = from + step.length;
  }
  return [...events, { event: "final", lock: "deploy", counter }];
}

/** Mixes the owners' logs, as files that are read one after the other or at once; each stays in its own order. */
function mix(events: readonly HistoryEvent[], order: readonly number[]): HistoryEvent[] {
  const logs = new Map<string, HistoryEvent[]>();
  for (const event of events) {
    const owner = "owner" in event ? event.owner : "";
    logs.set(owner, [...logs.get(owner) ?? [], event]);
  }
  return events.map((_, i) => {
    const open = [...logs.values()].filter((log) => log.length > 0);
    return open[(order[i] ?? 0) % open.length]?.shift() as HistoryEvent;
  });
}

/** All entries in order of time. */
function entries(events: readonly HistoryEvent[]): EnterEvent[] {
  return events.filter((event) => event.event === "enter")
    .sort((a, b) => Number(a.tMonoNs - b.tMonoNs));
}

function exitOf(events: readonly HistoryEvent[], enter: EnterEvent): ExitEvent | undefined {
  return events.find((event): event is ExitEvent =>
    event.event === "exit" && event.owner === enter.owner &&
    event.counterAfter === (enter.counterBefore ?? NaN) + 1
  );
}

function endOf(events: readonly HistoryEvent[], enter: EnterEvent): bigint {
  const end = exitOf(events, enter) ??
    events.find((event) => event.event === "dead" && event.owner === enter.owner);
  return (end as ExitEvent).tMonoNs;
}

/** Two entries of different owners that follow each other. */
function pickPair(events: readonly HistoryEvent[], at: number) {
  const all = entries(events);
  const pairs = all.slice(1).map((second, i) => ({ first: all[i] as EnterEvent, second }))
    .filter(({ first, second }) => first.owner !== second.owner);
  return pairs[at % Math.max(pairs.length, 1)];
}

/** Moves an entry and the grant before it, so that the owner's own log stays in order. */
function moveEntry(events: HistoryEvent[], enter: EnterEvent, to: bigint): HistoryEvent[] {
  const grantAt = enter.tMonoNs - 1n;
  return events.map((event) => {
    if (event === enter) return { ...enter, tMonoNs: to };
    const isGrant = event.event === "grant" && event.owner === enter.owner &&
      event.tMonoNs === grantAt;
    return isGrant ? { ...event, tMonoNs: to } : event;
  });
}

function replace(events: HistoryEvent[], old: HistoryEvent, by: HistoryEvent): HistoryEvent[] {
  return events.map((event) => event === old ? by : event);
}
