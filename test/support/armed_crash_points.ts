/**
 * What a build for tests has in the place of agent/crash_points.ts.
 *
 * `SSHLOCK_CRASH_AT=POINT:COUNT` kills the process when it reaches the point for the COUNT-th time,
 * `SSHLOCK_CRASH_AT=POINT:COUNT:stop` stops it there; a later SIGCONT lets it go on.
 *
 * @module
 */

import process from "node:process";

const [wanted, count = "1", how = "kill"] = (process.env.SSHLOCK_CRASH_AT ?? "").split(":");
let left = Number(count);

/** Kills or stops this process when it is the wanted step. The call does not return after a kill. */
export function crashPoint(point: string): void {
  if (point !== wanted || --left !== 0) return;
  process.kill(process.pid, how === "stop" ? "SIGSTOP" : "SIGKILL");
}
