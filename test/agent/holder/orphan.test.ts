import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { describe, test } from "node:test";
import { SPARE_ARGV0 } from "../../../agent/holder/image.ts";
import { order, toHex, whyNoHolder, Workplace } from "./support.ts";

const ROUNDS = 2500;

const skip = whyNoHolder() ?? false;

describe(
  "a waiting holder whose parent is killed -9 never ends up owning the lock",
  // Each try waits for the kernel most of its time.
  { skip, concurrency: true },
  () => {
    test(`${ROUNDS} tries, the parent dead before the release`, async (t) => {
      await killWaiters("before", order({ wait: true }), t);
    });

    // An untied holder may answer into the socket of a parent that dies before it reads the answer:
    // that lock was granted, but nobody knows of it. So a waiter is tied until it is recorded.
    test(`${ROUNDS} tries, release and kill at the same time, tied`, async (t) => {
      await killWaiters("race", order({ wait: true, tied: true }), t);
    });
  },
);

async function killWaiters(
  mode: "before" | "race",
  bytes: Uint8Array,
  t: { diagnostic(message: string): void },
): Promise<void> {
  using workplace = new Workplace();
  const script = "test/fixtures/kill_waiters.py";
  const args = [workplace.image(), SPARE_ARGV0, workplace.lock, String(ROUNDS), mode, toHex(bytes)];
  const child = spawn("python3", [script, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const [output, [code]] = await Promise.all([text(child.stdout), once(child, "exit")]);
  t.diagnostic(output.trim());
  assert.equal(code, 0);
  assert.deepEqual(JSON.parse(output), { rounds: ROUNDS, stuck: 0 });
}
