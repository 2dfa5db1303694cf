/**
 * Every lock that is held: whether somebody answers for it, or it has leaked.
 *
 * @module
 */

import type { ForeignHolder } from "../../protocol/messages.ts";
import { LOCK_FD } from "../holder/order.ts";
import { readHostStatus } from "../host_status.ts";
import { lockFileName } from "../../protocol/lock_name.ts";
import { findSshdProcess } from "../peer.ts";
import { listDescriptors, readStat } from "../proc.ts";
import { Records } from "../records.ts";
import { type Finding, found, type Scene } from "./finding.ts";

const ID = "holder";

/** Findings that are shown one by one; the rest is counted. */
const MAX_SHOWN = 20;

/**
 * Leaked locks of the shell protocol, and holders that no record explains.
 *
 * @param scene What is known of the host.
 */
export async function checkLockHolders({ agent, paths }: Scene): Promise<Finding[]> {
  const records = new Records(paths.runtimeDir);
  const { locks, notes } = agent.kind === "running"
    ? agent.status
    : await readHostStatus({ lockDir: paths.lockDir, records });
  const findings: Finding[] = [];
  let heldCount = 0;
  for (const { name, holders } of locks) {
    for (const holder of holders) {
      heldCount++;
      const isExplained = holder.kind === "own" || holder.record !== undefined;
      const finding = isExplained ? undefined : judge(name, holder);
      if (finding !== undefined) findings.push(finding);
    }
  }
  for (const note of notes ?? []) findings.push(found(ID, "warn", note));
  if (findings.length === 0) {
    const count = heldCount === 1 ? "1 lock is held" : `${heldCount} locks are held`;
    return [found(ID, "ok", `${count}: somebody answers for each`)];
  }
  const rest = findings.length - MAX_SHOWN;
  if (rest <= 0) return findings;
  return [...findings.slice(0, MAX_SHOWN), found(ID, "warn", `${rest} more holders like these`)];
}

function judge(name: string, { pid, command, hiddenBecause }: ForeignHolder): Finding | undefined {
  if (pid === undefined) {
    const what = `Lock "${name}" is held by a process that cannot be seen: ${hiddenBecause}`;
    return found(ID, "warn", what, "run sshlock-agent doctor as root, outside of containers");
  }
  const isByShell = command === `${lockFileName(name)} infinity`;
  if (isByShell && hasLivingShell(pid, name)) return undefined;
  if (isByShell) {
    const what = `Lock "${name}" has leaked: its holder (pid ${pid}) has outlived its session`;
    return found("leaked-holder", "warn", what, `kill ${pid} frees it`);
  }
  const what = `Lock "${name}" is held by pid ${pid} (${command}), which no record explains`;
  return found(ID, "warn", what, `if nobody needs it: kill ${pid}`);
}

/** The shell that took the lock has descriptor 999 as well, and over SSH an sshd above it. */
function hasLivingShell(pid: number, name: string): boolean {
  if (findSshdProcess(pid) !== undefined) return true;
  const parent = readStat(pid)?.parentPid ?? 1;
  const descriptors = parent <= 1 ? [] : listDescriptors(parent);
  // Another user's shell: alive, and not ours to look into.
  if (descriptors === undefined) return true;
  const suffix = `/${lockFileName(name)}`;
  return descriptors.some(([fd, target]) => fd === LOCK_FD && target.endsWith(suffix));
}
