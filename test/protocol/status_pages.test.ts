import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import fc from "fast-check";
import { fitLock, pageOf } from "../../agent/status_page.ts";
import { MAX_LINE_BYTES } from "../../protocol/limits.ts";
import type { LockFacts, OwnHolder, WaiterFacts } from "../../protocol/messages.ts";
import { readAllPages } from "../../protocol/status_pages.ts";

// The worst that is accepted: six bytes a character once it is JSON.
const WORST = "\ud800";

test("pages of any set of locks fit a line and together are all of them", async () => {
  const sizes = fc.array(fc.record({ waiters: fc.nat(3), length: fc.nat(500) }), {
    maxLength: 300,
  });
  await fc.assert(
    fc.asyncProperty(sizes, async (sizes) => {
      const locks = sizes.map(({ waiters, length }, i) => lockOf(`n${1000 + i}`, waiters, length));
      const all = await readAllPages((params) => {
        const page = pageOf({ locks }, params.after);
        assert.ok(Buffer.byteLength(JSON.stringify(page)) < MAX_LINE_BYTES - 4096);
        return Promise.resolve(page);
      });
      assert.deepEqual(all.locks, locks);
    }),
    { numRuns: 30 },
  );
});

test("a lock with ever so many waiters and holders fits a line and says what it leaves out", () => {
  const lock: LockFacts = {
    name: "a".repeat(100),
    holders: Array.from({ length: 5_000 }, () => holderOf(500)),
    waiters: Array.from({ length: 5_000 }, () => waiterOf(500)),
  };
  const fitted = fitLock(lock);
  assert.ok(Buffer.byteLength(JSON.stringify(fitted)) < MAX_LINE_BYTES - 8 * 1024);
  assert.equal(fitted.holders.length + fitted.holdersOmitted!, 5_000);
  assert.equal(fitted.waiters.length + fitted.waitersOmitted!, 5_000);
  assert.ok(fitted.waiters.length > 0);
  assert.equal(pageOf({ locks: [lock] }, undefined).locks.length, 1);
});

function lockOf(name: string, waiters: number, length: number): LockFacts {
  return {
    name,
    holders: [holderOf(length)],
    waiters: Array.from({ length: waiters }, () => waiterOf(length)),
  };
}

function waiterOf(length: number): WaiterFacts {
  return {
    owner: WORST.repeat(200),
    purpose: WORST.repeat(length),
    uid: 1,
    waitedMs: 1,
    shared: true,
  };
}

function holderOf(length: number): OwnHolder {
  const { owner, purpose, uid, shared } = waiterOf(length);
  const [peerPid, holderPid, since, heldMs, lastHeardMs, token] = [1, 2, 3, 4, 5, 6];
  const ids = { peerPid, holderPid, since, heldMs, lastHeardMs, token };
  return { kind: "own", owner, purpose: purpose!, uid, shared, state: "held", ...ids };
}
