/**
 * Another holder for a lock whose holder was killed.
 *
 * @module
 */

import { setTimeout } from "node:timers/promises";
import { crashPoint } from "./crash_points.ts";
import type { Holder, HolderPool } from "./holder.ts";
import type { Log } from "./log.ts";
import { eventFacts, isOver, type Ownership, partsOf } from "./ownership.ts";

/** How often a killed holder is replaced in a row without success before its lock is lost. */
const MAX_TRIES = 5;

/** Pause between two such tries, in milliseconds: the host may be out of processes. */
const PAUSE_MS = 200;

/** What is needed to start one. */
export interface NewHolderParts {
  /** Starts holders. */
  pool: HolderPool;
  /** Where events go. */
  log: Log;
  /** Whether a held lock outlives this process. */
  outlivesAgent: boolean;
}

/**
 * Gives a lock another holder. Our own descriptor has kept the lock meanwhile, and it is sent to the
 * new one: it never has to take it.
 *
 * @param parts What it works with.
 * @param ownership The lock, in the hands of its owner.
 * @param events `onStart` is called with each process before it can have the lock, `onDeath` when the
 * one that has it was killed in its turn.
 * @returns Whether there is one; `false` also when the ownership ended meanwhile.
 */
export async function startNewHolder(
  { pool, log, outlivesAgent }: NewHolderParts,
  ownership: Ownership,
  { onStart, onDeath }: { onStart(holder: Holder): void; onDeath(): void },
): Promise<boolean> {
  const { name, shared, file } = ownership;
  const order = { name, shared, wait: false, tied: !outlivesAgent };
  for (let tries = 0; tries < MAX_TRIES && !isOver(ownership); tries++) {
    const { holder, outcome } = await pool.lock(order, file.fd, { onStart });
    crashPoint("holder.replaced");
    if (outcome.kind === "locked" && !isOver(ownership)) {
      holder.onDeath = onDeath;
      if (outlivesAgent) holder.untie();
      log("holder-replaced", eventFacts(partsOf(ownership)[0]!));
      pool.refill();
      return true;
    }
    holder.kill();
    await holder.ended;
    if (!isOver(ownership)) await setTimeout(PAUSE_MS);
  }
  return false;
}
