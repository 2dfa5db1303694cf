import assert from "node:assert/strict";
import { test } from "node:test";
import type { OwnHolder } from "../../protocol/messages.ts";
import { statusRows } from "../../protocol/status_rows.ts";

const HOLDER: OwnHolder = {
  kind: "own",
  owner: "respirate/42",
  purpose: "repair db1",
  uid: 1000,
  user: "ops",
  peerPid: 10,
  since: 0,
  heldMs: 14_000,
  lastHeardMs: 0,
  holderPid: 11,
  token: 7,
  shared: false,
  state: "held",
};

test("a lock that is held shows its mode and purpose", () => {
  assert.deepEqual(lastColumns({}), ["exclusive", "repair db1"]);
  assert.deepEqual(lastColumns({ shared: true, purpose: undefined }), ["shared", ""]);
});

test("a session that is ending shows what is waited for", () => {
  const awaiting = [1, 2, 3, 4].map((pid) => ({ pid, comm: "dpkg", state: "S" }));
  assert.deepEqual(lastColumns({ state: "ending", awaiting }), [
    "ending",
    "repair db1; waits for dpkg 1, dpkg 2, dpkg 3 and 1 more",
  ]);
});

test("a parked lock shows for how long it is reserved", () => {
  const parked = { state: "parked", parkedForMs: 30_000, purpose: undefined } as const;
  assert.deepEqual(lastColumns(parked), ["parked", "reserved for 30 s"]);
});

test("a waiter that takes over shows why", () => {
  const waiter = { owner: "b", uid: 0, waitedMs: 1_000, shared: false };
  const waiters = [{ ...waiter, takeover: "urgent", purpose: "p" }, { ...waiter, purpose: "p" }];
  const rows = statusRows({ name: "x", holders: [], waiters });
  assert.deepEqual(rows.map((row) => row.slice(-2)), [["takes over", "urgent"], ["waits", "p"]]);
});

function lastColumns(facts: Partial<OwnHolder>): string[] {
  const [row] = statusRows({ name: "x", holders: [{ ...HOLDER, ...facts }], waiters: [] });
  return row!.slice(-2);
}
