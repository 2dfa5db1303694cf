import assert from "node:assert/strict";
import { test } from "node:test";
import { findForeignHolders } from "../../agent/foreign_holders.ts";
import { KernelView } from "../../agent/kernel_view.ts";
import { Limits } from "../../agent/limits.ts";
import { flock } from "../support/flock.ts";
import { requires } from "../support/requires.ts";
import { lockPath, shellLock } from "../support/shell_lock.ts";
import { makeLockDir } from "../support/temp_dir.ts";

const skip = requires("flock", "bash");

test(
  "a later page of a listing shows no lock that was freed since the first",
  { skip },
  async () => {
    await using dir = await makeLockDir("view");
    const outcome = await flock(lockPath(dir.path, "a"));
    assert.ok(outcome.kind === "held");
    const view = new KernelView(dir.path);
    assert.deepEqual((await view.lockedFiles()).map(({ name }) => name), ["a"]);
    await outcome.holder.end();
    view.continue();
    assert.deepEqual(await view.lockedFiles(), []);
  },
);

test("a lock that is freed while its holder is searched for has none", { skip }, async () => {
  await using dir = await makeLockDir("view");
  const outcome = await flock(lockPath(dir.path, "a"));
  assert.ok(outcome.kind === "held");
  const view = new KernelView(dir.path);
  const [file] = await view.lockedFiles();
  await outcome.holder.end();
  assert.deepEqual(await findForeignHolders(file!, view, new Set()), []);
});

test("every page names the holder of the shell protocol's lock", { skip }, async () => {
  await using dir = await makeLockDir("view");
  const outcome = await shellLock(dir.path, "a");
  assert.ok(outcome.kind === "locked");
  await using lock = outcome.lock;
  const view = new KernelView(dir.path);
  for (let page = 0; page < 2; page++) {
    const [file] = await view.lockedFiles({ after: "0" });
    const [holder] = await findForeignHolders(file!, view, new Set());
    assert.equal(holder?.pid, lock.holderPid);
    view.continue();
  }
});

test("a listing asks only for locks in its part that are not known", { skip }, async () => {
  await using dir = await makeLockDir("view");
  const holders = await Promise.all(["a", "b", "c", "d"].map(async (name) => {
    const outcome = await flock(lockPath(dir.path, name));
    assert.ok(outcome.kind === "held");
    return outcome.holder;
  }));
  const isKnown = (name: string) => name === "b";
  const view = new KernelView(dir.path);
  const files = await view.lockedFiles({ after: "a", upTo: "c", isKnown });
  assert.deepEqual(files.map(({ name }) => name), ["c"]);
  await Promise.all(holders.map((holder) => holder.end()));
});

test("who only borrows descriptors leaves some to connections and claims", () => {
  const limits = new Limits({ maxConnectionsPerUser: 100, maxClaimsPerUser: 100 }, 160);
  for (let borrowed = 0; limits.borrowDescriptor(); borrowed++) assert.ok(borrowed < 160);
  limits.addConnection(0);
  limits.addClaim(0);
});
