import { buildAgent } from "../support/agent_build.ts";
import { findBun } from "../../build/tools.ts";
import { agentCommand } from "../support/agent_process.ts";
import type { BrokenCase } from "./cases.ts";
import { runHistory, type RunOptions, type RunResult } from "./run_history.ts";

/** Whether all of it is done with agents that are not broken: then nothing is to be found. */
export const isMended = process.env.SSHLOCK_HISTORY_MENDED === "1";

/** How a broken agent was found out. */
export interface Finding {
  /** The first broken rule, leak, or what else shows it; `undefined`: nothing did. */
  caughtBy: string | undefined;
  result: RunResult;
}

/** A small run: a few clients on two locks. */
const small: Omit<RunOptions, "agent" | "seed"> = {
  crowd: {
    ...{ localProcesses: 2, localClients: 4, strangers: false },
    ...{ run: 0, shell: 0, flock: 0, library: 0, bridge: 0 },
  },
  ...{ locks: 2, unlinkedLocks: 0, faults: {}, faultPauseMs: 300, endings: [], endingShare: 40 },
  ...{ owners: 2, pauseUs: 3000, waiting: 30, holdMs: 25, operations: Infinity, minMs: 0 },
  ...{ deadlineMs: isMended ? 15_000 : 80_000, stopsAtViolation: true, endDeadlineMs: 5_000 },
};

/**
 * Runs a broken agent until the checker finds it out, or the checks at the end do.
 *
 * @param seed Of all choices.
 * @param holder Another holder than the built one.
 */
export async function findOut(
  broken: BrokenCase,
  seed: number,
  holder?: string,
): Promise<Finding> {
  const name = `history-${broken.name.replace(/[^a-z]+/g, "-").slice(0, 40)}`;
  const result = await runHistory({
    ...small,
    crowd: { ...small.crowd, ...broken.crowd },
    faults: broken.faults ?? {},
    endings: broken.endings ?? [],
    ...broken.more,
    agent: await buildFor(name, broken),
    ...(holder === undefined ? {} : { holder }),
    ...(broken.isSeen === undefined ? {} : { isFinding: broken.isSeen }),
    seed,
  });
  const { verdict, leaks, failure } = result;
  const kinds = verdict.violations.map(({ kind }) => kind);
  // What only a broken test can write is no finding.
  if (kinds.includes("malformed") || failure?.startsWith("the ")) {
    throw new Error(`The run itself failed: ${failure ?? verdict.violations[0]!.message}`);
  }
  const caughtBy = kinds[0] ?? leaks[0] ?? failure ??
    (broken.isSeen?.(verdict) === true ? "what clients were told" : undefined);
  return { caughtBy, result };
}

/** The bundle runs under both runtimes: under the one whose flavour this test run is about. */
async function buildFor(name: string, { patches, setting = [] }: BrokenCase): Promise<string[]> {
  const argv = await buildAgent({ name, patches: [...setting, ...isMended ? [] : patches] });
  return isDeno() ? argv : [findBun(), argv.at(-1)!];
}

/** Whether this test run is about the agent under Deno. */
export function isDeno(): boolean {
  return agentCommand()[0]!.endsWith("deno");
}
