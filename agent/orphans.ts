/**
 * Holders of an agent that died: the connections they were held for ended with it.
 *
 * @module
 */

import { join } from "node:path";
import process from "node:process";
import { LOCK_FD } from "./holder/order.ts";
import { lockFileName } from "../protocol/lock_name.ts";
import type { Log } from "./log.ts";
import { isAlive, listDescriptors, type ProcessId, readBootId, readPidNamespace } from "./proc.ts";
import type { Records } from "./records.ts";

/**
 * Ends the holders that records of this boot and pid namespace explain, and removes the records.
 *
 * A record is a hint and may be forged: only a process that started when the record says, and has
 * the lock file of that name as descriptor 999, is ended. A holder without a record is left alone.
 *
 * @param places Where records and lock files lie, and where events go.
 */
export function endOrphans(
  { records, lockDir, log }: { records: Records; lockDir: string; log: Log },
): void {
  for (const name of records.names()) {
    const record = records.read(name);
    const isOurs = record?.bootId === readBootId() && record.pidNamespace === readPidNamespace();
    const orphaned = isOurs ? record.ownerships.filter(({ agent }) => !isAlive(agent)) : [];
    for (const { holder, owner, token } of orphaned) {
      if (!isHolderOf(holder, join(lockDir, lockFileName(name)))) continue;
      process.kill(holder.pid, "SIGKILL");
      log("orphan-ended", { name, owner, token, holderPid: holder.pid });
    }
    const { bootId, pidNamespace } = record ?? { bootId: "", pidNamespace: "" };
    if (isOurs && orphaned.length < record.ownerships.length) continue;
    records.write({ name, bootId, pidNamespace, ownerships: [] });
  }
}

function isHolderOf(holder: ProcessId, path: string): boolean {
  const descriptors = isAlive(holder) ? listDescriptors(holder.pid) : undefined;
  return descriptors?.some(([fd, target]) => fd === LOCK_FD && target === path) ?? false;
}
