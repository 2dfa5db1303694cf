import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { HOLDER_EXIT, SPARE_ARGV0 } from "../../../agent/holder/image.ts";
import {
  becomesFree,
  descriptors,
  type HolderOptions,
  HolderRun,
  isFree,
  order,
  pathOf,
  whyNoHolder,
  Workplace,
} from "./support.ts";

const qemu = pathOf("qemu-aarch64-static") ?? pathOf("qemu-aarch64");
const skip = whyNoHolder() ??
  (qemu === undefined ? "qemu-aarch64 (qemu-user-static) is not installed" : false);

/** Starts aarch64 holders of one lock file, emulated. What ps shows of them is qemu's own argv. */
function workshop() {
  const workplace = new Workplace();
  const command = [String(qemu), "-0", SPARE_ARGV0, workplace.image("arm64")];
  const start = (options: Partial<HolderOptions>) =>
    HolderRun.start({ command, lock: workplace.lock, ...options });
  return { start, lock: workplace.lock, [Symbol.dispose]: () => workplace[Symbol.dispose]() };
}

describe("an aarch64 holder under qemu-user", { skip }, () => {
  test("locks fd 999, answers L, and holds until it is killed", async () => {
    using shop = workshop();
    await using run = await shop.start({ order: order() });
    assert.equal(await run.next("reply"), "L");
    assert.equal(descriptors(run.pid).get(999), shop.lock);
    run.tell("forget");
    await run.next("forgot");
    assert.equal(isFree(shop.lock), false);
    run.tell("kill");
    assert.equal(await run.next("end"), -9);
    assert.ok(await becomesFree(shop.lock));
  });

  test("shares the lock, and refuses or waits where it is exclusive", async () => {
    using shop = workshop();
    await using first = await shop.start({ order: order({ shared: true }) });
    await using second = await shop.start({ order: order({ shared: true }) });
    assert.equal(await first.next("reply"), "L");
    assert.equal(await second.next("reply"), "L");
    await using refused = await shop.start({ order: order() });
    assert.equal(await refused.next("reply"), "B");
    assert.equal(await refused.next("end"), HOLDER_EXIT.contended);
    await using waiter = await shop.start({ order: order({ wait: true }) });
    assert.equal(await waiter.next("reply"), "W");
    first.tell("unlock");
    second.tell("unlock");
    assert.equal(await waiter.next("reply"), "L");
  });

  test("ends with its agent as a spare and when tied, not once the tie is cut", async () => {
    using shop = workshop();
    await using spare = await shop.start({});
    spare.tell("close");
    assert.equal(await spare.next("end"), HOLDER_EXIT.agentGone);

    await using tied = await shop.start({ order: order({ tied: true }) });
    assert.equal(await tied.next("reply"), "L");
    tied.tell("forget");
    tied.tell("close");
    assert.equal(await tied.next("end"), HOLDER_EXIT.agentGone);

    await using cut = await shop.start({ order: order({ tied: true, wait: true }) });
    // Its W and its L may come together.
    for (let heard = ""; !heard.includes("L");) heard += await cut.next("reply");
    cut.tell("byte");
    cut.tell("forget");
    await cut.next("forgot"); // so the byte has been sent
    await cut.killAgent();
    assert.equal(isFree(shop.lock), false);
    process.kill(cut.pid, "SIGKILL");
    assert.ok(await becomesFree(shop.lock));
  });

  test("that waited ends when nobody hears its L", async () => {
    using shop = workshop();
    await using first = await shop.start({ order: order() });
    assert.equal(await first.next("reply"), "L");
    await using second = await shop.start({ order: order({ wait: true }), ignore_sigpipe: true });
    assert.equal(await second.next("reply"), "W");
    second.tell("close");
    await second.next("eof");
    first.tell("unlock");
    assert.equal(await second.next("end"), HOLDER_EXIT.agentGone);
  });

  test("says with its exit code what is wrong with an order", async () => {
    using shop = workshop();
    await using empty = await shop.start({ order: order(), fds: 0 });
    assert.equal(await empty.next("end"), HOLDER_EXIT.badOrder);
    const impossible = order();
    impossible[0] = 0;
    await using wrong = await shop.start({ order: impossible });
    assert.equal(await wrong.next("end"), HOLDER_EXIT.flockFailed);
    await using low = await shop.start({ order: order(), nofile: 999 });
    assert.equal(await low.next("end"), HOLDER_EXIT.dupFailed);
  });
});
