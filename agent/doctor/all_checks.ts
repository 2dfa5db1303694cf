/**
 * All checks of `doctor`, in the order in which they are shown.
 *
 * @module
 */

import process from "node:process";
import { configPlace } from "../config_file.ts";
import { clientSockets, type PathOptions, resolvePaths } from "../paths.ts";
import { type Check, type Finding, found, type Scene } from "./finding.ts";
import { checkConfigFile } from "./config_file.ts";
import { checkHolderFile } from "./holder_file.ts";
import { checkKernel } from "./kernel.ts";
import { checkLockFiles } from "./lock_files.ts";
import { checkLockFolder } from "./lock_folder.ts";
import { checkLockHolders } from "./lock_holders.ts";
import { checkLogind } from "./logind.ts";
import { checkLostFiles } from "./lost_files.ts";
import { checkProbeLock } from "./probe_lock.ts";
import { checkProcessView } from "./process_view.ts";
import { askAgent, checkRunningAgent } from "./running_agent.ts";
import { checkRuntime } from "./runtime.ts";
import { checkShellTools } from "./shell_tools.ts";
import { checkSshdSettings } from "./sshd_settings.ts";
import { checkTokenCounter } from "./token_counter.ts";

/** Time a check has before it is given up, in milliseconds; together they run side by side. */
const CHECK_LIMIT_MS = 1_500;

const CHECKS: [id: string, check: Check][] = [
  ["kernel", checkKernel],
  ["proc", checkProcessView],
  ["lock-folder", checkLockFolder],
  ["lock-file", checkLockFiles],
  ["holder-file", checkHolderFile],
  ["probe-lock", checkProbeLock],
  ["config-file", checkConfigFile],
  ["agent", checkRunningAgent],
  ["token-counter", checkTokenCounter],
  ["holder", checkLockHolders],
  ["lost-lock-file", checkLostFiles],
  ["logind", checkLogind],
  ["sshd", checkSshdSettings],
  ["shell-protocol", checkShellTools],
];

/**
 * Runs all checks. It harms nothing and takes less than two seconds.
 *
 * @param options Where agent and locks are.
 * @param config The config file to look at; absent: the one that `serve` reads.
 */
export async function runAllChecks(options: PathOptions, config?: string): Promise<Finding[]> {
  const sockets = clientSockets(options);
  const scene: Scene = {
    paths: resolvePaths(options),
    config: configPlace(config),
    sockets,
    uid: process.getuid!(),
    agent: await askAgent(sockets),
  };
  // Ahead of the others, because it loads the C library that the probe lock needs.
  const runtime = await runCheck("libc", checkRuntime, scene);
  const others = await Promise.all(CHECKS.map(([id, check]) => runCheck(id, check, scene)));
  return [...runtime, ...others.flat()];
}

async function runCheck(id: string, check: Check, scene: Scene): Promise<Finding[]> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = new Promise<Finding[]>((resolve) => {
    const what = `Check "${id}" took longer than ${CHECK_LIMIT_MS} ms and was given up`;
    timer = setTimeout(() => resolve([found(id, "warn", what)]), CHECK_LIMIT_MS);
  });
  try {
    return await Promise.race([Promise.resolve(check(scene)), limit]);
  } catch (error) {
    const what = `Check "${id}" could not be made: ${(error as Error).message}`;
    return [found(id, "fail", what)];
  } finally {
    clearTimeout(timer);
  }
}
