import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { HOLDER_EXIT } from "../../../agent/holder/image.ts";
import {
  becomesFree,
  type HolderOptions,
  HolderRun,
  isFree,
  order,
  toHex,
  whyNoHolder,
  Workplace,
} from "./support.ts";

const skip = whyNoHolder() ?? false;

/** Starts holders of one lock file. */
function workshop() {
  const workplace = new Workplace();
  const command = [workplace.image()];
  const start = (options: Partial<HolderOptions>) =>
    HolderRun.start({ command, lock: workplace.lock, ...options });
  return { start, lock: workplace.lock, [Symbol.dispose]: () => workplace[Symbol.dispose]() };
}

describe("a holder", { skip }, () => {
  test("locks, answers L, and keeps the lock until it is killed", async () => {
    using shop = workshop();
    await using run = await shop.start({ order: order() });
    assert.equal(await run.next("reply"), "L");
    run.tell("forget"); // from here on the holder alone has the open file description
    await run.next("forgot");
    assert.equal(isFree(shop.lock), false);
    assert.equal(isFree(shop.lock, "-s"), false);
    run.tell("kill");
    assert.equal(await run.next("end"), -9);
    assert.ok(await becomesFree(shop.lock));
  });

  test("shares the lock when told so", async () => {
    using shop = workshop();
    await using first = await shop.start({ order: order({ shared: true }) });
    await using second = await shop.start({ order: order({ shared: true }) });
    assert.equal(await first.next("reply"), "L");
    assert.equal(await second.next("reply"), "L");
    assert.equal(isFree(shop.lock, "-s"), true);
    assert.equal(isFree(shop.lock, "-x"), false);
  });

  for (const shared of [false, true]) {
    const asWhat = shared ? "shared" : "exclusive";

    test(`answers B and ends with 124 when another has it and it may not wait (${asWhat})`, async () => {
      using shop = workshop();
      await using first = await shop.start({ order: order() });
      assert.equal(await first.next("reply"), "L");
      await using second = await shop.start({ order: order({ shared }) });
      assert.equal(await second.next("reply"), "B");
      assert.equal(await second.next("end"), HOLDER_EXIT.contended);
    });

    test(`answers W, waits in the kernel's queue, then answers L (${asWhat})`, async () => {
      using shop = workshop();
      await using first = await shop.start({ order: order() });
      assert.equal(await first.next("reply"), "L");
      await using second = await shop.start({ order: order({ shared, wait: true }) });
      assert.equal(await second.next("reply"), "W");
      first.tell("unlock");
      assert.equal(await second.next("reply"), "L");
      assert.equal(isFree(shop.lock, "-s"), shared);
      assert.equal(isFree(shop.lock, "-x"), false);
    });
  }

  test("takes a description over that is locked already, as after another holder's death", async () => {
    using shop = workshop();
    await using run = await shop.start({ order: order() });
    assert.equal(await run.next("reply"), "L");
    run.tell("kill");
    assert.equal(await run.next("end"), -9);
    assert.equal(isFree(shop.lock), false, "the agent's descriptor keeps it");
    run.tell("unlock");
    assert.ok(await becomesFree(shop.lock));
  });

  test("keeps the lock when its agent dies, and frees it when it is killed then", async () => {
    using shop = workshop();
    await using run = await shop.start({ order: order() });
    assert.equal(await run.next("reply"), "L");
    await run.killAgent();
    assert.equal(isFree(shop.lock), false);
    process.kill(run.pid, "SIGKILL");
    assert.ok(await becomesFree(shop.lock));
  });

  test("ends with its agent when it is tied", async () => {
    using shop = workshop();
    await using run = await shop.start({ order: order({ tied: true }) });
    assert.equal(await run.next("reply"), "L");
    run.tell("close");
    assert.equal(await run.next("end"), HOLDER_EXIT.agentGone);

    await using other = await shop.start({ order: order({ tied: true, wait: true }) });
    run.tell("unlock");
    // Its W and its L may come together.
    for (let heard = ""; !heard.includes("L");) heard += await other.next("reply");
    await other.killAgent();
    assert.ok(await becomesFree(shop.lock));
  });

  test("that is tied outlives its agent once the agent has written a byte", async () => {
    using shop = workshop();
    await using run = await shop.start({ order: order({ tied: true }) });
    assert.equal(await run.next("reply"), "L");
    run.tell("byte");
    run.tell("close");
    run.tell("forget");
    await run.next("forgot");
    await run.killAgent();
    assert.equal(isFree(shop.lock), false);
    process.kill(run.pid, "SIGKILL");
    assert.ok(await becomesFree(shop.lock));
  });

  for (const ignore_sigpipe of [false, true]) {
    const how = ignore_sigpipe ? "ignored" : "not ignored";

    test(`that waited ends when nobody hears its L (SIGPIPE ${how})`, async () => {
      using shop = workshop();
      await using first = await shop.start({ order: order() });
      assert.equal(await first.next("reply"), "L");
      const options = { order: order({ wait: true }), ignore_sigpipe };
      await using second = await shop.start(options);
      assert.equal(await second.next("reply"), "W");
      second.tell("close");
      await second.next("eof");
      first.tell("unlock");
      assert.equal(await second.next("end"), ignore_sigpipe ? HOLDER_EXIT.agentGone : -13);
    });
  }

  test("is stopped and continued without harm, as a spare and as a waiter", async () => {
    using shop = workshop();
    await using first = await shop.start({ order: order() });
    assert.equal(await first.next("reply"), "L");
    await using second = await shop.start({});
    const interrupt = () => {
      process.kill(second.pid, "SIGSTOP");
      process.kill(second.pid, "SIGCONT");
    };
    interrupt();
    second.tell(`order ${toHex(order({ wait: true, tied: true }))}`);
    assert.equal(await second.next("reply"), "W");
    interrupt();
    first.tell("unlock");
    assert.equal(await second.next("reply"), "L");
    interrupt();
    second.tell("close");
    assert.equal(await second.next("end"), HOLDER_EXIT.agentGone);
  });

  test("that is a spare ends when its agent is gone", async () => {
    using shop = workshop();
    await using run = await shop.start({});
    run.tell("close");
    assert.equal(await run.next("end"), HOLDER_EXIT.agentGone);
  });

  for (const fds of [0, 2]) {
    test(`refuses an order with ${fds} descriptors: exit 120`, async () => {
      using shop = workshop();
      await using run = await shop.start({ order: order(), fds });
      assert.equal(await run.next("end"), HOLDER_EXIT.badOrder);
    });
  }

  test("refuses an order that is cut short: exit 120", async () => {
    using shop = workshop();
    await using run = await shop.start({ order: order().subarray(0, 124) });
    run.tell("close");
    assert.equal(await run.next("end"), HOLDER_EXIT.badOrder);
  });

  test("says with exit 121 that fd 999 is out of its reach", async () => {
    using shop = workshop();
    await using run = await shop.start({ order: order(), nofile: 999 });
    assert.equal(await run.next("end"), HOLDER_EXIT.dupFailed);
  });

  test("says with exit 122 that the kernel refuses the operation", async () => {
    using shop = workshop();
    const impossible = order();
    impossible[0] = 0;
    await using run = await shop.start({ order: impossible });
    assert.equal(await run.next("end"), HOLDER_EXIT.flockFailed);
  });
});
