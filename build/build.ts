import { existsSync, mkdirSync } from "node:fs";
import type { Metafile } from "esbuild";

import { bundleAgent, bundleCli, bundleController } from "./bundle.ts";
import { writeChecksums } from "./checksums.ts";
import { compileAgent } from "./compile.ts";
import { emitDeclarations } from "./declarations.ts";
import { writeHolderImages } from "./holder_images.ts";
import { writeLicences } from "./licences.ts";
import { complain, say, step } from "./output.ts";
import * as paths from "./paths.ts";
import { readStamp } from "./stamp.ts";

const stamp = readStamp();
const bundled: Metafile[] = [];

// What is made, of which entry. A part that fails does not keep the others from being made.
const PARTS: readonly [what: string, entry: string, make: () => unknown][] = [
  [
    paths.CONTROLLER_BUNDLE,
    "controller/mod.ts",
    async () => bundled.push(await bundleController(stamp)),
  ],
  ["declarations", "controller/mod.ts", emitDeclarations],
  [paths.CLI_BUNDLE, "controller/cli/main.ts", async () => bundled.push(await bundleCli(stamp))],
  [paths.AGENT_BUNDLE, "agent/main.ts", async () => bundled.push(await bundleAgent(stamp))],
  [paths.AGENT_BINARY, "agent/main.ts", () => compileAgent(paths.AGENT_BINARY, stamp)],
  ["holder images", "agent/holder/image.ts", writeHolderImages],
  [paths.CHECKSUMS, "agent/main.ts", writeChecksums],
  [paths.LICENCES, "controller/mod.ts", () => writeLicences(bundled)],
];

say(`building sshlock ${stamp.version} (${stamp.commit})`);
mkdirSync(paths.DIST_DIR, { recursive: true });
for (const [what, entry, make] of PARTS) {
  try {
    if (!existsSync(entry)) complain(`  ${what}: skipped, ${entry} is not there yet`);
    else await step(what, make);
  } catch (error) {
    complain(error instanceof Error ? error.message : String(error));
    process.exitCode = 1;
  }
}
