import { execFileSync } from "node:child_process";

import { killAndConfirm } from "../test/support/processes.ts";
import { shellProtocol } from "../test/support/shell_lock.ts";
import type { Actor } from "./actor.ts";
import type { Report } from "./claimant.ts";
import { expect } from "./expect.ts";
import type { Stage } from "./stage.ts";
import type { Timeline } from "./timeline.ts";

type Locked = Report & { kind: "locked" };

/** How often claim and shell protocol are measured. */
const COST_ROUNDS = 21;

/**
 * Plays the demo, each line of it from an event that has just happened.
 *
 * @throws {ExpectationError} Something did not happen as it should.
 */
export async function play(stage: Stage, timeline: Timeline): Promise<void> {
  const [alice, bob] = await Promise.all([stage.controller("alice"), stage.controller("bob")]);
  timeline.tell("demo", `alice is process ${alice.pid}, bob is ${bob.pid}, both connected by SSH`);

  timeline.head("Alice claims, Bob is told who has it");
  const first = await claimFree(alice, timeline);
  showProof(first.holderPid, stage, timeline);
  await refuseBob(bob, timeline);

  timeline.head("The shell protocol of flock(1) is refused too, and refuses us");
  await refuseShell(stage, timeline);
  await letShellRefuseBob(stage, bob, timeline);

  timeline.head("Alice is killed, Bob gets the lock");
  await handOver(alice, bob, first, timeline);

  timeline.head("What a claim costs");
  await compareCost(stage, timeline);
}

async function claimFree(alice: Actor, timeline: Timeline): Promise<Locked> {
  alice.send({ do: "claim", name: "demo", purpose: "repair db1" });
  const locked = await alice.hear("locked");
  const { token, holderPid, way, tookMs } = locked;
  timeline.tell("alice", `has "demo": token ${token}, holder ${holderPid} (${way}, ${ms(tookMs)})`);
  expect(way === "streamlocal", `the claim went by ${way}, not straight to the agent's socket`);
  return locked;
}

/** The kernel and the process list, asked by the tools that every administrator has. */
function showProof(holderPid: number, { agent }: Stage, timeline: Timeline): void {
  const locks = lines("lslocks", ["--noheadings", "--raw", "-o", "PID,TYPE,MODE,PATH"]);
  const lock = locks.find((line) => line.startsWith(`${holderPid} `));
  expect(lock?.includes(" FLOCK WRITE ") === true, `lslocks does not show holder ${holderPid}`);
  timeline.tell("kernel", `lslocks: ${lock}`);
  expect(lock?.includes(agent.dirs.lockDir) === true, "lslocks shows another file");
  const found = lines("pgrep", ["-af", "session-lock-demo"]);
  const process = found.find((line) => line === `${holderPid} session-lock-demo infinity`);
  expect(process !== undefined, `pgrep does not show holder ${holderPid}`);
  timeline.tell("kernel", `pgrep -af session-lock: ${process}`);
}

async function refuseBob(bob: Actor, timeline: Timeline): Promise<void> {
  bob.send({ do: "claim", name: "demo" });
  const { message, holder, tookMs } = await bob.hear("refused");
  timeline.tell("bob", `is refused after ${ms(tookMs)}: ${message}`);
  expect(holder.owner === "alice", "the refusal does not name alice");
}

async function refuseShell({ agent, ssh }: Stage, timeline: Timeline): Promise<void> {
  const { exitCode, text } = await ssh(shellProtocol(agent.dirs.lockDir, "demo"));
  timeline.tell("shell", `is refused: exit code ${exitCode}, "${text}"`);
  expect(exitCode === 124, `the shell protocol ended with ${exitCode}, not 124`);
}

async function letShellRefuseBob(
  { agent, ssh }: Stage,
  bob: Actor,
  timeline: Timeline,
): Promise<void> {
  const { exitCode, text } = await ssh(`${shellProtocol(agent.dirs.lockDir, "other")}\necho $!`);
  const pid = Number(text);
  expect(exitCode === 0 && pid > 1, `the shell protocol did not get "other": ${text}`);
  timeline.tell("shell", `has "other": process ${pid}`);
  bob.send({ do: "claim", name: "other" });
  const { message, holder } = await bob.hear("refused");
  timeline.tell("bob", `is refused: ${message}`);
  expect(holder.kind === "foreign", "the refusal does not call the holder foreign");
  expect(holder.pid === pid, `the refusal names pid ${holder.pid}, not ${pid}`);
  await killAndConfirm(pid);
}

async function handOver(
  alice: Actor,
  bob: Actor,
  first: Locked,
  timeline: Timeline,
): Promise<void> {
  bob.send({ do: "claim", name: "demo", waitMs: 60_000, purpose: "upgrade db1" });
  const { position } = await bob.hear("queued");
  timeline.tell("bob", `waits for "demo" at place ${position}`);
  const killedMs = performance.now();
  timeline.tell("demo", `kill -9 ${alice.pid} (alice)`);
  await alice.kill();
  const { token, holderPid } = await bob.hear("locked");
  const afterMs = performance.now() - killedMs;
  timeline.tell("bob", `has "demo" ${ms(afterMs)} later: token ${token}, holder ${holderPid}`);
  expect(token > first.token, `token ${token} is not higher than ${first.token}`);
}

async function compareCost(stage: Stage, timeline: Timeline): Promise<void> {
  const carol = await stage.controller("carol");
  const script = `${shellProtocol(stage.agent.dirs.lockDir, "shell-cost")}\necho $!`;
  carol.send({ do: "cost", rounds: COST_ROUNDS, script });
  const { claimMs, shellMs } = await carol.hear("cost");
  const [claim, shell] = [median(claimMs), median(shellMs)];
  timeline.tell("carol", `claim ${ms(claim)}, shell protocol ${ms(shell)}: ${ratio(shell, claim)}`);
  timeline.tell("carol", `(medians of ${COST_ROUNDS}, each on an open SSH connection)`);
}

function lines(program: string, args: string[]): string[] {
  return execFileSync(program, args, { encoding: "utf8" }).trim().split("\n");
}

function median(times: readonly number[]): number {
  return [...times].sort((a, b) => a - b)[times.length >> 1] as number;
}

function ratio(theirs: number, ours: number): string {
  return theirs >= ours
    ? `${(theirs / ours).toFixed(1)} times faster`
    : `${(ours / theirs).toFixed(1)} times slower`;
}

function ms(value: number): string {
  return `${value.toFixed(1)} ms`;
}
