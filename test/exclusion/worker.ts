/**
 * One owner of the exclusion run: claims, acts, releases, again and again until it is ended.
 *
 * Its only argument is a {@link WorkerConfig} as JSON. It prints a line for each act, and ends when its standard input does.
 */
import { setTimeout as delay } from "node:timers/promises";
import { type ClaimantConfig, makeClaimant } from "./claimants.ts";
import { act, type Grant, OwnerLog } from "./owner_log.ts";
import { makeRandom } from "./random.ts";

/** What the driver tells a worker. */
export interface WorkerConfig extends ClaimantConfig {
  seed: number;
  logPath: string;
  counterPath: string;
}

await main(JSON.parse(process.argv[2] as string) as WorkerConfig);

async function main(config: WorkerConfig): Promise<void> {
  const random = makeRandom(config.seed);
  const log = new OwnerLog(config.logPath);
  let ending = false;
  process.stdin.once("end", () => ending = true).resume();
  const claimant = await makeClaimant(config, random);
  const { owner, lock, way } = config;
  const common: Grant = { owner, lock, way, mode: "exclusive", token: null };
  claimant.onLoss(() => log.write({ ...common, event: "loss" }));
  while (!ending) {
    const claimed = await claimant.claim();
    if (claimed !== undefined) {
      act(log, { ...common, token: claimed.token }, config.counterPath, random);
      process.stdout.write("acted\n");
      await claimed.release();
    }
    // Leaves the lock free at times: the shell protocol never waits, and so gets nothing under a constant queue.
    await delay(random.below(5));
  }
  process.exit(0);
}
