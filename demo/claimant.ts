// One controller, in a process of its own: the built library and nothing else of ours.
//
//     node claimant.mjs SETTINGS.json
//
// Reads one order a line (JSON) and prints what happens, one event a line.

import { readFileSync } from "node:fs";
import process from "node:process";
import { createInterface } from "node:readline";

/** What a claimant is started with. */
export interface Settings {
  /** URL of the built library. */
  readonly library: string;
  readonly target: Record<string, unknown> & { host: string; username: string };
  readonly owner: string;
  readonly lockDir: string;
}

/** What it is told to do. */
export type Order =
  | { readonly do: "claim"; name: string; waitMs?: number; purpose?: string }
  | { readonly do: "cost"; rounds: number; script: string };

/** What it tells. */
export type Report =
  | { kind: "connected"; pid: number }
  | { kind: "queued"; position: number }
  | { kind: "locked"; token: number; holderPid: number; way: string; tookMs: number }
  | { kind: "refused"; message: string; holder: Record<string, unknown>; tookMs: number }
  | { kind: "cost"; claimMs: number[]; shellMs: number[] }
  | { kind: "failed"; message: string };

const { library, target, owner, lockDir } = JSON.parse(
  readFileSync(process.argv[2] as string, "utf8"),
) as Settings;
const { connect, LockContendedError } = await import(
  library
) as typeof import("../controller/mod.ts");
const open = () => connect(target, { owner, lockDir });

const session = await open();
tell({ kind: "connected", pid: process.pid });
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line) as Order;
  await (order.do === "claim" ? claim(order) : measureCost(order)).catch((error) =>
    tell({ kind: "failed", message: String(error) })
  );
}
await session.close();

async function claim({ name, waitMs, purpose }: Order & { do: "claim" }): Promise<void> {
  const startMs = performance.now();
  const tookMs = () => performance.now() - startMs;
  try {
    const onQueued = ({ position }: { position: number }) => tell({ kind: "queued", position });
    const lock = await session.claim(name, { waitMs, purpose, onQueued });
    const { token = 0, holderPid, way } = lock;
    tell({ kind: "locked", token, holderPid, way, tookMs: tookMs() });
  } catch (error) {
    if (!(error instanceof LockContendedError)) throw error;
    const { message, holder } = error;
    tell({ kind: "refused", message, holder: { ...holder }, tookMs: tookMs() });
  }
}

/** In turns, each on an open connection that has claimed nothing yet: connecting is not part of it. */
async function measureCost({ rounds, script }: Order & { do: "cost" }): Promise<void> {
  const times: Record<"claimMs" | "shellMs", number[]> = { claimMs: [], shellMs: [] };
  for (let round = 0; round < rounds; round++) {
    const fresh = await open();
    const claimFromMs = performance.now();
    const lock = await fresh.claim("cost");
    times.claimMs.push(performance.now() - claimFromMs);
    await lock.release();
    const shellFromMs = performance.now();
    const { stdout } = await fresh.exec(script, { check: false });
    times.shellMs.push(performance.now() - shellFromMs);
    // The shell's holder outlives its session. That is what is wrong with it.
    await fresh.exec(`kill -9 ${Number(stdout)}`);
    await fresh.close();
  }
  tell({ kind: "cost", ...times });
}

function tell(report: Report): void {
  process.stdout.write(`${JSON.stringify(report)}\n`);
}
