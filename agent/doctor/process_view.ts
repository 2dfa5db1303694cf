/**
 * Whether processes can be seen and told apart: /proc, pid namespaces, the limit of open files.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import { LOCK_FD } from "../holder/order.ts";
import { isFirstPidNamespace, readPidNamespace, whyProcIsBlind } from "../proc.ts";
import { type Finding, found, type Scene } from "./finding.ts";

/**
 * /proc, the pid namespace, and RLIMIT_NOFILE.
 *
 * @param scene What is known of the host.
 */
export function checkProcessView({ uid, paths: { lockDir } }: Scene): Finding[] {
  return [checkProc(uid), checkNamespace(lockDir), checkOpenFiles()];
}

function checkProc(uid: number): Finding {
  const blind = whyProcIsBlind();
  if (blind === undefined) return found("proc", "ok", "/proc is mounted and hides nothing");
  if (uid === 0 && blind.includes("hidepid")) {
    return found("proc", "ok", `${blind}, which hides nothing from root`);
  }
  const isMissing = !blind.includes("hidepid");
  const hint = isMissing ? "mount -t proc proc /proc" : "mount -o remount,hidepid=0 /proc";
  const what = `${blind}: foreign holders cannot be named`;
  return found("proc", isMissing ? "fail" : "warn", what, hint);
}

function checkNamespace(lockDir: string): Finding {
  const id = "pid-namespace";
  const namespace = readPidNamespace();
  if (isFirstPidNamespace()) {
    return found(id, "ok", `Pid namespace is the host's own, ${namespace}`);
  }
  if (namespace === "") return found(id, "skip", "Pid namespace cannot be read: no /proc");
  const what = `Pid namespace is a container's, ${namespace}: if ${lockDir} is shared with the ` +
    "host, holders outside exclude as they should, but are not listed and cannot be named";
  return found(id, "warn", what, "run one agent, outside; or give the container its own /dev/shm");
}

/** Bun raises the soft limit to the hard one when it starts, and holders inherit that. */
function checkOpenFiles(): Finding {
  const id = "open-files";
  let limits: string;
  try {
    limits = readFileSync("/proc/self/limits", "utf8");
  } catch {
    return found(id, "skip", "Limit of open files cannot be read: no /proc");
  }
  const soft = /^Max open files +(\S+)/m.exec(limits)?.[1] ?? "0";
  const what = `Limit of open files is ${soft}`;
  if (soft === "unlimited" || Number(soft) > LOCK_FD) return found(id, "ok", what);
  const problem = `${what}: holders need descriptor ${LOCK_FD}`;
  return found(id, "fail", problem, "ulimit -n 4096, or LimitNOFILE=65536 in the unit");
}
