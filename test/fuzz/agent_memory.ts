import { readdirSync, readFileSync } from "node:fs";

/** What a process uses. */
export interface Usage {
  descriptors: number;
  /** Resident memory in kB. */
  residentKb: number;
}

/** Reads what a process uses now. @see proc_pid_status(5) */
export function readUsage(pid: number): Usage {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return {
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
    residentKb: Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]),
  };
}
