import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { buildAgent, withAgent } from "../support/agent_build.ts";
import { makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { flock } from "../support/flock.ts";
import { connectRpc } from "../support/rpc_client.ts";
import { lockPath } from "../support/shell_lock.ts";

// The clients of these tests are one process: a clean-up would take all its children for leftovers.
const MINE = { name: "deploy", onEnd: "leave" };

test("the end of a session that is being refused a lock leaves that lock's record alone", async () => {
  // As slow as a busy host may be in telling who has the lock.
  const argv = await buildAgent({
    name: "slow-look",
    patches: [{
      file: "agent/lock_table.ts",
      find: "      const foreign = await findForeignHoldersOf(",
      replace: "      await new Promise((then) => setTimeout(then, 2000));\n" +
        "      const foreign = await findForeignHoldersOf(",
    }],
  });
  await withAgent(argv, async () => {
    await using made = await makeAgentDirs();
    await using agent = await startAgent({ dirs: made.dirs });
    const outcome = await flock(lockPath(made.dirs.lockDir, "deploy"));
    assert.equal(outcome.kind, "held");
    const foreign = outcome as Extract<typeof outcome, { kind: "held" }>;
    await using waiter = await agent.client("waiter");
    await using refused = await agent.client("refused");
    const waiting = waiter.request("claim", { ...MINE, waitMs: 60_000 });
    await waiter.notification("queued");
    // It has its answer when the look is over; by then the lock has come and gone.
    const refusal = refused.request("claim", MINE).catch(() => {});
    // In one write with the claim, it would be answered together with that.
    await delay(100);
    await refused.request("ping", {});
    await foreign.holder.end();
    await waiting;
    await waiter.request("release", { name: "deploy" });

    const client = await connectRpc(made.dirs.socket);
    const hello = await client.request("hello", { protocol: 1, owner: "a", session: "process" });
    const { token } = await client.request("claim", MINE);
    refused.stream.destroy();
    const isEnding = (e: Record<string, unknown>) =>
      e.event === "session-ending" && e.owner === "refused";
    await agent.events.waitFor(isEnding, { what: "the end of the session" });
    await refusal;
    const path = join(made.dirs.runtimeDir, "locks/deploy.json");
    assert.equal(JSON.parse(readFileSync(path, "utf8")).ownerships[0].token, token);

    await agent.kill();
    await using _next = await startAgent({ dirs: made.dirs });
    await using again = await connectRpc(made.dirs.socket);
    const { secret } = hello.session as { secret: string };
    const { locks } = await again.request("hello", { protocol: 1, resume: secret });
    assert.deepEqual((locks as { token: number }[]).map((lock) => lock.token), [token]);
  });
});
