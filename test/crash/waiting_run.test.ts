import assert from "node:assert/strict";
import { test } from "node:test";
import { buildAgent, withAgent } from "../support/agent_build.ts";
import { startCommand } from "../support/agent_command.ts";
import { makeAgentDirs, startAgent } from "../support/agent_process.ts";

test("a lock that was granted to a waiting run without a word is the run's at the next agent", async () => {
  const build = await buildAgent({ name: "crash", crashPoints: true, engine: "binary" });
  await withAgent(build, async () => {
    await using made = await makeAgentDirs();
    const { dirs } = made;
    const first = await startAgent({ dirs, env: { SSHLOCK_CRASH_AT: "holder.untied:2" } });
    await using owner = await first.client("owner");
    const { token } = await owner.request<{ token: number }>("claim", { name: "x" });
    await using watcher = await first.client("watcher");
    await watcher.request("watch");
    const command = ["sh", "-c", "echo $SSHLOCK_TOKEN"];
    await using run = startCommand(dirs, ["run", "--owner", "me", "x", ...command]);
    // What the waiter is told with it is said before the release is heard.
    await watcher.notification("change");
    owner.request("release", { name: "x" }).catch(() => {/* the agent dies of it */});
    await first.exit;
    await using second = await startAgent({ dirs });
    const { code, stdout } = await run.end;
    assert.deepEqual([code, Number(stdout)], [0, token + 1]);
    const ended = await second.events.waitFor(({ event }) => event === "lock-ended");
    assert.deepEqual([ended.owner, ended.how, ended.isFree], ["me", "released", true]);
  });
});
