import { existsSync, rmSync } from "node:fs";

import { complain, say } from "./output.ts";
import { AGENT_BUNDLE, AGENT_DENO_BINARY } from "./paths.ts";
import { runTool } from "./run_tool.ts";
import { findDeno } from "./tools.ts";

// deno compile puts the program into a runtime of its own (denort), which it downloads: the npm
// package of Deno does not have it. DENORT_BIN names one that is already here.
if (!existsSync(AGENT_BUNDLE)) {
  complain(`Cannot compile ${AGENT_BUNDLE}: it is not there\nHint: run npm run build first`);
  process.exitCode = 1;
} else {
  try {
    rmSync(AGENT_DENO_BINARY, { force: true });
    const flags = ["--no-config", "--no-check", "--allow-all", "--output", AGENT_DENO_BINARY];
    runTool(findDeno(), ["compile", ...flags, AGENT_BUNDLE]);
    say(`compiled ${AGENT_DENO_BINARY}`);
  } catch (error) {
    complain(error instanceof Error ? error.message : String(error));
    complain(
      `No ${AGENT_DENO_BINARY}: deno compile needs its runtime (denort), which it downloads\n` +
        "Hint: name a downloaded denort of the same version with DENORT_BIN, or use dist/sshlock-agent, " +
        "the same program compiled by Bun, which npm run build makes offline",
    );
    process.exitCode = 1;
  }
}
