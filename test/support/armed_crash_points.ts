/**
 * What a build for tests has in the place of agent/crash_points.ts.
 *
 * `SSHLOCK_CRASH_AT=POINT:COUNT` kills the process when it reaches the point for the COUNT-th time,
 * `SSHLOCK_CRASH_AT=POINT:COUNT:stop` stops it there; a later SIGCONT lets it go on. With
 * `SSHLOCK_CRASH_WHEN=PATH` it counts only while that file is there.
 *
 * @module
 */

import { existsSync } from "node:fs";
import process from "node:process";

const [wanted, count = "1", how = "kill"] = (process.env.SSHLOCK_CRASH_AT ?? "").split(":");
const gate = process.env.SSHLOCK_CRASH_WHEN;
let left = Number(count);

/** Kills or stops this process when it is the wanted step. The call does not return after a kill. */
export function crashPoint(point: string): void {
  if (point !== wanted || (gate !== undefined && !existsSync(gate)) || --left !== 0) return;
  process.kill(process.pid, how === "stop" ? "SIGSTOP" : "SIGKILL");
}
