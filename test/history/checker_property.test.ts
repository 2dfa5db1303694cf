import assert from "node:assert/strict";
import test from "node:test";
import fc from "fast-check";
import { checkHistory } from "./checker.ts";
import type { Way } from "./history.ts";
import { type ClaimPlan, historyOf } from "./history_builder.ts";

/** One ownership of a valid history, in relative numbers, so that any choice of them is valid. */
const step = fc.record({
  way: fc.constantFrom<Way[]>("local", "run", "library", "bridge", "shell", "flock"),
  gap: fc.nat(50),
  length: fc.integer({ min: 2, max: 50 }),
  tokenGap: fc.integer({ min: 1, max: 5 }),
  isKilled: fc.boolean(),
  acts: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 5 }),
});
const steps = fc.array(step, { minLength: 2, maxLength: 30 });

/** One ownership after the other; the killed ones act up to their end and are never released. */
const plans: fc.Arbitrary<ClaimPlan[]> = steps.map((chosen) => {
  let [now, highest] = [100, 0];
  return chosen.map(({ way, gap, length, tokenGap, isKilled, acts }, index) => {
    const granted = now + gap;
    now = granted + length;
    // It acts at once: a controller's grant alone proves nothing.
    const at = [granted, ...acts.map((part) => granted + Math.floor(part * length))];
    const token = way === "shell" || way === "flock" ? null : highest += tokenGap;
    return {
      ...{ c: `c${index}`, way, token, granted, claimed: granted - 1 },
      ...(isKilled ? { acts: [...at, now] } : { acts: at, release: now }),
    };
  });
});

test("checkHistory() accepts every history in which one comes after the other", () => {
  fc.assert(fc.property(plans, (valid) => {
    assert.deepEqual(checkHistory(historyOf(...valid)).violations, []);
  }));
});

test("checkHistory() does not care for the order of the lines", () => {
  fc.assert(fc.property(plans, fc.infiniteStream(fc.nat()), (valid, order) => {
    const events = historyOf(...valid).map((event) => ({ event, at: order.next().value }))
      .sort((a, b) => a.at - b.at).map(({ event }) => event);
    assert.deepEqual(checkHistory(events).violations, []);
  }));
});

/** Breaks a valid history in one place, chosen by `at`; `undefined` when it has no such place. */
const mutations: Record<string, (valid: ClaimPlan[], at: number) => ClaimPlan[] | undefined> = {
  "a grant 1 ns before the end of the one before it": (valid, at) => {
    const index = 1 + at % (valid.length - 1);
    const before = valid[index - 1]!;
    const end = before.release ?? Math.max(...before.acts!);
    const later = valid[index]!;
    const acts = [end - 1, ...later.acts!];
    return valid.with(index, { ...later, granted: end - 1, claimed: end - 2, acts });
  },
  "an act 1 ns after the next grant": (valid, at) => {
    const index = at % (valid.length - 1);
    const plan = valid[index]!;
    return valid.with(index, { ...plan, acts: [...plan.acts!, valid[index + 1]!.granted! + 1] });
  },
  "a token of an earlier one": (valid, at) => {
    const counted = valid.filter(({ token }) => token !== null);
    if (counted.length < 2) return undefined;
    const index = 1 + at % (counted.length - 1);
    const later = counted[index]!;
    return valid.with(valid.indexOf(later), { ...later, token: counted[index - 1]!.token! });
  },
  "an act before its grant": (valid, at) => {
    const index = at % valid.length;
    const plan = valid[index]!;
    return valid.with(index, { ...plan, acts: [plan.granted! - 1] });
  },
  "no token where the agent grants": (valid, at) => {
    const counted = valid.filter(({ token }) => token !== null);
    const plan = counted[at % Math.max(1, counted.length)];
    return plan && valid.with(valid.indexOf(plan), { ...plan, token: null });
  },
};

for (const [name, mutate] of Object.entries(mutations)) {
  test(`checkHistory() rejects every valid history with ${name}`, () => {
    fc.assert(fc.property(plans, fc.nat(), (valid, at) => {
      const broken = mutate(valid, at);
      fc.pre(broken !== undefined);
      assert.equal(checkHistory(historyOf(...broken)).ok, false);
    }));
  });
}
