// Shows on one machine what sshlock does, on a real sshd with throw-away keys:
//
//     npm run demo

import { existsSync } from "node:fs";

import { complain, say } from "../build/output.ts";
import { whyNoAgent } from "../test/support/agent_process.ts";
import { play } from "./play.ts";
import { installPrograms } from "./programs.ts";
import { setStage } from "./stage.ts";
import { Timeline } from "./timeline.ts";

const stop = new AbortController();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(name, () => stop.abort(new Error(`stopped by ${name}`)));
}

const cleanUp: (() => Promise<unknown>)[] = [];
try {
  await show();
} catch (error) {
  complain(error instanceof Error ? error.message : String(error));
  process.exitCode = stop.signal.aborted ? 130 : 1;
} finally {
  await tidyUp();
}

async function show(): Promise<void> {
  const missing = existsSync("dist/controller/mod.js") ? whyNoAgent() : "needs dist/: build first";
  if (missing !== undefined) throw new Error(`Cannot show the demo: it ${missing}`);
  installPrograms();
  const timeline = new Timeline();
  const stage = await setStage(cleanUp);
  const { sshd, agent } = stage;
  timeline.tell("demo", `a private sshd listens on ${sshd.host}:${sshd.port}`);
  timeline.tell("demo", `agent ${agent.pid} keeps its locks in ${agent.dirs.lockDir}`);
  // Who is waited for may have died of the same signal, and then never tells.
  await Promise.race([play(stage, timeline), aborted(stop.signal)]);
  say("");
  say("Shown: one owner at a time, refusals that say who, both ways with the shell");
  say("protocol, a handover after kill -9 with a higher token, and what a claim costs.");
}

/** Whatever has been started, even halfway. A second signal does not keep it from being ended. */
async function tidyUp(): Promise<void> {
  for (let undo = cleanUp.pop(); undo !== undefined; undo = cleanUp.pop()) {
    await undo().catch((error) => {
      complain(`Cannot clean up: ${(error as Error).message}`);
      process.exitCode ||= 1;
    });
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason));
  });
}
