import { mkdtempSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Plugin } from "esbuild";

import { bundleAgentParts } from "./bundle.ts";
import { runTool } from "./run_tool.ts";
import type { Stamp } from "./stamp.ts";
import { findBun } from "./tools.ts";

const AGENT_NAME = "sshlock-agent";

/**
 * Compiles the agent into a single binary.
 *
 * Its program goes in as one part a subcommand, each loaded when it is called: `version` starts in
 * 5 ms this way, against 8 ms for the single module, of which each `import` at the top costs some.
 *
 * The binary takes nothing from the folder it is started in: no .env, no bunfig.toml. It must never
 * be stripped, because the program lies behind the sections that the runtime's linker knew.
 *
 * @param outfile The binary; replaced atomically.
 * @param stamp What the binary says about itself.
 * @param runtime The Bun executable that the program is put into; without it, the one of this
 *   machine. It must have the version of the Bun that compiles, because the bytecode is its own.
 * @param changes What a build for tests changes in the source.
 * @throws {ToolFailedError} Bun refused the bundle.
 */
export async function compileAgent(
  outfile: string,
  stamp: Stamp,
  runtime = findBun(),
  changes: readonly Plugin[] = [],
): Promise<void> {
  // In a folder of its own, because the binary shows the name it was compiled under (argv[1]).
  const folder = mkdtempSync(join(dirname(outfile), ".compile-"));
  const draft = join(folder, AGENT_NAME);
  try {
    const main = await bundleAgentParts(stamp, join(folder, "parts"), changes);
    runTool(findBun(), [
      "build",
      "--compile",
      "--bytecode",
      "--splitting",
      "--format=esm",
      "--no-compile-autoload-dotenv",
      "--no-compile-autoload-bunfig",
      "--compile-executable-path",
      runtime,
      "--outfile",
      draft,
      main,
    ], { BUN_OPTIONS: "", BUN_BE_BUN: "" });
    renameSync(draft, outfile);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
