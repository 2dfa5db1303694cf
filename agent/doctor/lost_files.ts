/**
 * Holders of files that no path leads to any more: the next claim does not meet them.
 *
 * @module
 */

import { lstatSync, readlinkSync, statSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { LOCK_PREFIX } from "../../protocol/lock_name.ts";
import { LOCK_FD } from "../holder/order.ts";
import { listPids, readCommand } from "../proc.ts";
import { type Finding, found, type Scene } from "./finding.ts";

const ID = "lost-lock-file";

// Processes between two turns of the event loop, so that other checks go on meanwhile.
const PIDS_PER_TURN = 200;

/**
 * Processes whose descriptor 999 is a lock file that was removed or replaced.
 *
 * @param scene What is known of the host.
 */
export async function checkLostFiles({ paths: { lockDir }, uid }: Scene): Promise<Finding[]> {
  const findings: Finding[] = [];
  let looked = 0;
  for (const pid of listPids()) {
    const state = judge(pid, `${lockDir}/${LOCK_PREFIX}`);
    if (state !== undefined) findings.push(describe(pid, state));
    if (++looked % PIDS_PER_TURN === 0) await setImmediate();
  }
  if (findings.length > 0) return findings;
  const scope = uid === 0 ? "No process holds" : "No process of this user holds";
  return [found(ID, "ok", `${scope} a lock file that was removed or replaced`)];
}

function judge(pid: number, prefix: string): string | undefined {
  const link = `/proc/${pid}/fd/${LOCK_FD}`;
  try {
    const target = readlinkSync(link);
    if (!target.startsWith(prefix)) return undefined;
    const path = target.replace(/ \(deleted\)$/, "");
    const held = statSync(link);
    const there = lstatSync(path, { throwIfNoEntry: false });
    if (there === undefined) return `${path} was removed`;
    return there.ino === held.ino && there.dev === held.dev ? undefined : `${path} was replaced`;
  } catch {
    return undefined; // gone, or not ours to see
  }
}

function describe(pid: number, state: string): Finding {
  const command = readCommand(pid) ?? "unknown";
  const what = `Lock file ${state} under its holder (pid ${pid}, ${command}): ` +
    "a second session can hold that lock";
  return found(ID, "fail", what, `end that session or kill ${pid}; find what cleans the folder`);
}
