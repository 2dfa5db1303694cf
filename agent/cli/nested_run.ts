/**
 * A `run` inside a `run` of the same lock: it joins that lock, or says why it cannot. It never waits,
 * as it would wait for itself, and never claims the lock anew, as it was started under it.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import process from "node:process";
import { SILENCE_MS } from "../../protocol/limits.ts";
import type { ClaimParams, OwnHolder, StatusResult } from "../../protocol/messages.ts";
import { WireError } from "../../protocol/wire_error.ts";
import { type AgentLock, claimFromAgent, type HeldLock } from "../agent_claim.ts";
import { AgentClient, connectToAgent } from "../client.ts";
import type { OuterLock } from "../nesting.ts";
import { clientSockets, type PathOptions, resolvePaths } from "../paths.ts";
import { CommandError, EXIT } from "./exit_codes.ts";
import type { RunOptions } from "./run.ts";

/** Pause between two tries to reach an agent that is being restarted, in milliseconds. */
const RESUME_AGAIN_MS = 50;

/** An outer lock that can be told from a later one of the same name. */
type KnownLock = OuterLock & { token: number; owner: string };

/**
 * Joins the lock that this process was started under: same owner, same token.
 *
 * @param options Where agent and locks are.
 * @param outer The lock, as the environment tells of it.
 * @param run What is asked for.
 * @param claim The claim.
 * @throws {CommandError} The lock is lost or given back since, or held in a way that excludes this.
 */
export async function joinOuterLock(
  options: PathOptions,
  outer: OuterLock,
  run: RunOptions,
  claim: ClaimParams,
): Promise<HeldLock> {
  const { token, owner } = outer;
  if (token === undefined || owner === undefined) {
    throw refuse(run, ", which was claimed over SSH without an agent and cannot be joined");
  }
  if (run.owner !== undefined && run.owner !== owner) {
    throw refuse(run, ` as ${owner}, so ${run.owner} would wait for itself`);
  }
  const known = { ...outer, token, owner };
  const lock = outer.run === undefined
    ? await joinAtAgent(clientSockets(options), known, claim, run)
    : await joinRun(options, known, claim);
  if (claim.shared !== true && lock.shared) {
    await lock.release();
    throw refuse(run, " as a shared lock, so an exclusive claim would wait for itself");
  }
  return lock;
}

async function joinRun(
  options: PathOptions,
  { name, token, owner, run }: KnownLock,
  { purpose }: ClaimParams,
): Promise<HeldLock> {
  const { joinHere } = await import("../local_claim.ts");
  const lock = await joinHere(resolvePaths(options), { name, token, owner, run: run! }, purpose);
  if (lock === undefined) throw lostBefore(name, token);
  return lock;
}

/** The agent may be restarted meanwhile; the outer session has as long to find it again. */
async function joinAtAgent(
  sockets: string[],
  outer: KnownLock,
  claim: ClaimParams,
  run: RunOptions,
): Promise<HeldLock> {
  const deadline = performance.now() + SILENCE_MS;
  for (;;) {
    const connection = await connectToAgent(sockets);
    if (connection.kind === "connected") {
      const client = new AgentClient(connection.socket);
      try {
        return await joinOver(client, sockets, outer, claim, run);
      } catch (error) {
        client.close();
        const isCut = error instanceof WireError && error.code === "cancelled";
        if (!isCut || performance.now() >= deadline) throw error;
      }
    } else if (performance.now() >= deadline) {
      throw refuse(run, `, and its agent cannot be reached: ${connection.reason}`);
    }
    await new Promise((resolve) => setTimeout(resolve, RESUME_AGAIN_MS));
  }
}

/** The token is looked at before and after: a lock of the same owner that came later is another. */
async function joinOver(
  client: AgentClient,
  sockets: string[],
  outer: KnownLock,
  claim: ClaimParams,
  run: RunOptions,
): Promise<HeldLock> {
  const { name, token, owner } = outer;
  const held = await findHeld(client, outer);
  if (held === undefined) throw lostBefore(name, token);
  const uid = process.getuid!();
  if (held.uid !== uid) {
    throw refuse(run, `, which uid ${held.uid} has, so uid ${uid} would wait for itself`);
  }
  let lock: AgentLock;
  try {
    const { purpose } = claim;
    const joining = { name, purpose, waitMs: 0, shared: held.shared };
    lock = await claimFromAgent(client, sockets, owner, joining);
  } catch (error) {
    if (error instanceof WireError && error.code === "contended") throw lostBefore(name, token);
    throw error;
  }
  if (lock.isJoined && lock.token === token) return lock;
  await lock.release();
  throw lostBefore(name, token);
}

async function findHeld(
  client: AgentClient,
  { name, token, owner }: KnownLock,
): Promise<OwnHolder | undefined> {
  const { locks } = await client.request<StatusResult>("status", { name });
  const holders = locks[0]?.holders.filter((holder) => holder.kind === "own") ?? [];
  return holders.find((holder) =>
    holder.token === token && holder.owner === owner &&
    (holder.state === "held" || holder.state === "detached")
  );
}

function refuse({ name, conflictExitCode }: RunOptions, why: string): CommandError {
  return new CommandError(`Cannot claim "${name}": this command runs under that lock${why}`, {
    exitCode: conflictExitCode,
  });
}

function lostBefore(name: string, token: number): CommandError {
  const message = `Cannot claim "${name}": this command was started under that lock (token ` +
    `${token}), which has been lost or released since`;
  return new CommandError(message, {
    exitCode: EXIT.lost,
    hint: "env -u SSHLOCK_LOCKS -u SSHLOCK_NAME COMMAND starts what claims it anew",
  });
}
