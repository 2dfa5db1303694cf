import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { isAbsolute, resolve } from "node:path";
import test, { type TestContext } from "node:test";
import {
  agentCommand,
  type AgentProcess,
  startAgent,
  whyNoAgent,
} from "../support/agent_process.ts";
import { bundleProgram } from "../support/bundle.ts";
import { type PrivateSshd, startPrivateSshd, whyNoSshd } from "../support/private_sshd.ts";
import { findTool, requires } from "../support/requires.ts";
import { makeLockDir, makeTempDir } from "../support/temp_dir.ts";
import { checkHistory, type Verdict } from "./checker.ts";
import { runExclusion, type RunOptions, type RunResult } from "./driver.ts";
import { sabotageHolder } from "./sabotage.ts";

/** Of all ways together. */
const claims = Number(process.env.SSHLOCK_EXCLUSION_CLAIMS ?? 3000);
const seed = Number(process.env.SSHLOCK_EXCLUSION_SEED ?? randomInt(2 ** 32));
/** A run of the default size takes a fraction of it on two cores. */
const deadlineMs = Math.max(200_000, claims * 60);
const timeout = deadlineMs + 60_000;

const shellTools = requires("bash", "flock", "sleep");

test("the shell protocol and flock(1) exclude each other while their owners are killed", {
  skip: shellTools,
  timeout,
}, async (t) => {
  await using dir = await makeTempDir("exclusion");
  await using locks = await makeLockDir("exclusion");
  const options = await makeOptions(dir.path, locks.path);
  const result = await runExclusion({
    ...options,
    ways: ["shell", "flock"],
    faults: ["controller"],
    claims: Math.ceil(claims / 10),
    claimsPerWay: Math.ceil(claims / 100),
  });
  assertProven(report(t, result), result);
});

test("agent, bridge, shell protocol and flock(1) exclude each other under kill -9 of anything", {
  skip: shellTools ?? whyNoSshd() ?? requires("ssh") ?? whyNoAgent(),
  timeout,
}, async (t) => {
  await using dir = await makeTempDir("exclusion");
  await using agent = await startAgent();
  await using sshd = await startPrivateSshd({ dir: dir.path });
  const result = await runExclusion({
    ...await makeOptions(dir.path, agent.dirs.lockDir),
    ...optionsOf(agent, sshd),
    ways: ["agent", "bridge", "shell", "flock"],
    faults: ["controller", "holder", "session"],
    claims,
    claimsPerWay: Math.ceil(claims / 30),
  });
  const verdict = report(t, result);
  assertProven(verdict, result);
  const losses = result.history.filter((event) => event.event === "loss");
  assert.deepEqual(losses, [], "no lock may be lost: its agent lived all the time");
  assert.ok(Math.min(...Object.values(result.faults)) > 0, "each kind of fault has to happen");
});

test("a holder without its flock call is caught", {
  skip: shellTools ?? whyNoAgent() ??
    (process.arch === "x64" ? undefined : "the patch is for x86-64"),
  timeout,
}, async (t) => {
  await using dir = await makeTempDir("exclusion");
  const holder = await sabotageHolder(dir.path);
  await using agent = await startAgent({ holder });
  const result = await runExclusion({
    ...await makeOptions(dir.path, agent.dirs.lockDir),
    ...optionsOf(agent, undefined),
    ways: ["agent", "shell", "flock"],
    faults: [],
    claims: 300,
    claimsPerWay: 20,
  });
  const kinds = new Set(report(t, result).violations.map((found) => found.kind));
  assert.ok(kinds.has("overlap"), "the checker has to see the overlap");
});

async function makeOptions(dir: string, lockDir: string): Promise<RunOptions> {
  const worker = await bundleProgram("test/exclusion/worker.ts", dir);
  const fixed = { ways: [], faults: [], claims: 0, claimsPerWay: 0 };
  return { ...fixed, worker, dir, lockDir, seed, deadlineMs, socket: "", bridge: [] };
}

function optionsOf(agent: AgentProcess, sshd: PrivateSshd | undefined) {
  const bridge = [...agentCommand().map(absolute), "bridge", "--socket", agent.dirs.socket];
  return {
    socket: agent.dirs.socket,
    agentPid: agent.pid,
    bridge: sshd === undefined ? [] : ["ssh", ...sshd.sshArgs, ...bridge],
    sshdSessions: () => sshd?.sessions().map((stat) => stat.pid) ?? [],
  };
}

/** The remote command runs elsewhere and with another PATH. */
function absolute(word: string): string {
  if (word.includes("/")) return isAbsolute(word) ? word : resolve(word);
  return word.startsWith("-") ? word : findTool(word) ?? word;
}

function report(t: TestContext, result: RunResult): Verdict {
  const verdict = checkHistory(result.history);
  const show = (counts: Record<string, number>) =>
    Object.entries(counts).map(([name, count]) => `${name} ${count}`).join(", ");
  t.diagnostic(`seed ${seed}: ${verdict.acts} acts in ${result.elapsedMs} ms, of them`);
  t.diagnostic(`completed by way: ${show(result.claims)}; cut off by a death: ${verdict.cutOff}`);
  t.diagnostic(`faults: ${show(result.faults)}; broken rules: ${verdict.violations.length}`);
  return verdict;
}

function assertProven(verdict: Verdict, result: RunResult): void {
  const messages = verdict.violations.map((found) => `${found.kind}: ${found.message}`);
  assert.equal(messages.slice(0, 10).join("\n"), "", `seed ${seed}`);
  const completed = Object.values(result.claims).reduce((a, b) => a + b);
  // A worker may have been stopped between its exit and the line that the driver counts.
  assert.ok(verdict.acts >= completed, "each counted act is in the history");
  assert.ok(verdict.cutOff > 0, "some owner has to die while it acts");
}
