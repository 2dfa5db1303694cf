import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";
import { agentCommand, startAgent, whyNoAgent } from "../support/agent_process.ts";
import { bundleProgram } from "../support/bundle.ts";
import { until } from "../support/events.ts";
import { requires } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import { readUsage, type Usage } from "./agent_memory.ts";
import { startBystander } from "./bystander.ts";

// Deno accepts several times more slowly; a leak of one object a connection shows in 20,000 as well.
const isQuick = agentCommand()[0]!.endsWith("sshlock-agent");
const COUNT = isQuick || process.env.SSHLOCK_TEST_SOAK === "1" ? 100_000 : 20_000;

// So many before the first measurement: the runtimes compile, and grow their heaps to a working size.
const WARM_UP = Math.max(10_000, COUNT / 5);

const PARALLEL = 32;

// A leak of 400 bytes a connection would be 40 MB; what a garbage collector has not yet given back is less.
const MAX_GROWTH_KB = 40 * 1024;

test(
  `${COUNT} hostile connections leak neither descriptors nor memory, and a bystander notices nothing`,
  {
    skip: whyNoAgent() ?? requires("flock"),
  },
  async (t) => {
    await using dir = await makeTempDir("fuzz");
    const program = await bundleProgram("test/fixtures/hostile_connections.ts", dir.path);
    await using agent = await startAgent({ args: ["--quiet"] });
    await using bystander = await startBystander(agent);
    const seed = Date.now() % 2 ** 32;
    t.diagnostic(`seed ${seed}`);
    const attack = (count: number) =>
      promisify(execFile)(process.execPath, [
        ...[program, agent.dirs.socket, `${count}`, `${PARALLEL}`, `${seed}`],
      ]).then(({ stdout }) => JSON.parse(stdout) as { made: number; answered: number });
    const idle = readUsage(agent.pid).descriptors;

    await attack(WARM_UP);
    await untilDescriptors(agent.pid, idle);
    const before = readUsage(agent.pid);
    const { made, answered } = await attack(COUNT - WARM_UP);
    assert.ok(made >= COUNT - WARM_UP);
    assert.ok(answered > made / 4, `only ${answered} of ${made} were answered`);
    await untilDescriptors(agent.pid, idle);
    const after = readUsage(agent.pid);

    const grownKb = after.residentKb - before.residentKb;
    t.diagnostic(`resident ${before.residentKb} kB before, ${after.residentKb} kB after`);
    t.diagnostic(`slowest ping of the bystander: ${bystander.slowestPingMs.toFixed(1)} ms`);
    assert.ok(grownKb < MAX_GROWTH_KB, `resident memory grew by ${grownKb} kB (seed ${seed})`);
    await bystander.check();
  },
);

/** A holder that is just being replaced has descriptors for a moment. */
async function untilDescriptors(pid: number, count: number): Promise<Usage> {
  const what = `${count} descriptors (now ${readUsage(pid).descriptors})`;
  return await until(() => {
    const usage = readUsage(pid);
    return usage.descriptors <= count && usage;
  }, { what, deadlineMs: 15_000 });
}
