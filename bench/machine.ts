import { readFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";

import { readStamp } from "../build/stamp.ts";
import { installedVersion } from "../build/tools.ts";
import { agentCommand } from "../test/support/agent_process.ts";

/** Where and of what the figures were made. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGb: number;
  readonly kernel: string;
  /** Processes that ran or wanted to at the start, on average over a minute. */
  readonly load: number;
  readonly commit: string;
  readonly agent: string;
  readonly node: string;
  readonly bun: string;
  readonly ssh2: string;
}

/** Describes this machine and this checkout. */
export function describeMachine(): Machine {
  const cores = cpus();
  return {
    cpu: cores[0]?.model.trim() || "unknown",
    cores: cores.length,
    memoryGb: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    load: Number(readFileSync("/proc/loadavg", "latin1").split(" ")[0]),
    commit: readStamp().commit,
    agent: agentCommand().join(" "),
    node: process.versions.node,
    bun: installedVersion("bun"),
    ssh2: installedVersion("ssh2"),
  };
}
