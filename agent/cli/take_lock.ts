/**
 * How `run` comes to its lock: from the agent, by itself where none runs, or by joining the lock that
 * it was started under.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { hostname } from "node:os";
import process from "node:process";
import { MAX_WAIT_MS } from "../../protocol/limits.ts";
import type { ClaimParams } from "../../protocol/messages.ts";
import type { HeldLock } from "../agent_claim.ts";
import { type OuterLock, outerLock } from "../nesting.ts";
import { clientSockets, type PathOptions, resolvePaths } from "../paths.ts";
import { userName } from "../users.ts";
import { parseDuration } from "./durations.ts";
import { CommandError } from "./exit_codes.ts";
import type { RunOptions } from "./run.ts";

/**
 * Takes the lock for a command.
 *
 * @param options Where agent and locks are.
 * @param run What is asked for.
 * @throws {WireError} `contended` and whatever else an agent refuses with.
 * @throws {CommandError} The lock that this process was started under cannot be joined.
 */
export async function takeLock(options: PathOptions, run: RunOptions): Promise<HeldLock> {
  const claim = claimFor(run);
  const outer = outerLock(claim.name, process.env);
  if (outer !== undefined) return await joinOuter(options, outer, run, claim);
  const owner = run.owner ?? defaultOwner();
  const sockets = clientSockets(options).filter((path) => existsSync(path));
  // Without a socket there is no agent, and the program's network part need not be loaded.
  if (sockets.length === 0) return await claimAlone(options, owner, claim);
  const { WaitingClaim } = await import("../waiting_claim.ts");
  const waiting = new WaitingClaim(claim);
  const outcome = await waiting.fromAgents(sockets, owner);
  if (outcome.kind === "granted") return outcome.lock;
  try {
    return await claimAlone(options, owner, outcome.left);
  } catch (error) {
    throw waiting.refused(error);
  }
}

async function claimAlone(
  options: PathOptions,
  owner: string,
  claim: ClaimParams,
): Promise<HeldLock> {
  const { name, takeover } = claim;
  if (takeover === undefined) {
    const { claimHere } = await import("../local_claim.ts");
    return await claimHere(resolvePaths(options), owner, claim);
  }
  throw new CommandError(`Cannot take "${name}" over: no agent runs, and nobody else can ask`, {
    hint: "without --takeover it waits for the lock; sshlock-agent status shows who has it",
  });
}

function claimFor(run: RunOptions): ClaimParams {
  const { name, shared, purpose } = run;
  const takeover = takeoverFor(run);
  // Without --wait a takeover waits for as long as the agent thinks that it takes.
  const forever = takeover === undefined ? MAX_WAIT_MS : undefined;
  const waitMs = run.wait === undefined ? forever : parseDuration(run.wait, "--wait");
  return { name, shared, waitMs, purpose, takeover };
}

function takeoverFor({ takeover, takeoverDeadline }: RunOptions): ClaimParams["takeover"] {
  const deadlineMs = takeoverDeadline === undefined
    ? undefined
    : parseDuration(takeoverDeadline, "--takeover-deadline");
  return takeover === undefined ? undefined : { reason: takeover, deadlineMs };
}

/**
 * One owner for each `run`, not for all that run under one lock: two that run side by side under one
 * lock and claim another are rivals for that.
 */
function defaultOwner(): string {
  const uid = process.getuid!();
  return `${userName(uid) ?? uid}@${hostname()}/${process.pid}`;
}

async function joinOuter(
  options: PathOptions,
  outer: OuterLock,
  run: RunOptions,
  claim: ClaimParams,
): Promise<HeldLock> {
  const { joinOuterLock } = await import("./nested_run.ts");
  return await joinOuterLock(options, outer, run, claim);
}
