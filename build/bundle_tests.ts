import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

import { nodeOptions } from "./bundle.ts";
import { TEST_DIR } from "./paths.ts";
import { readStamp } from "./stamp.ts";

/** The reporter that test programs load, as a bundle. */
export const REPORTER_BUNDLE = `${TEST_DIR}/reporter.js`;

/** One bundled test file. */
export type TestBundle = {
  /** Its source, below test/: `agent/lock_table.test.ts`. */
  readonly name: string;
  /** The bundle, a program. */
  readonly program: string;
  /** It starts the agent (through test/support/agent_process.ts), so it runs against each flavour. */
  readonly startsAgent: boolean;
};

const AGENT_SUPPORT = "test/support/agent_process.ts";

/** Bundles all tests into dist/test/ and says which of them start the agent. */
export async function bundleTests(): Promise<TestBundle[]> {
  const names = listTests();
  const shared = {
    ...nodeOptions(readStamp()),
    packages: "external",
    sourcemap: "inline",
  } as const;
  await build({ ...shared, entryPoints: ["build/test_reporter.ts"], outfile: REPORTER_BUNDLE });
  const { metafile } = await build({
    ...shared,
    entryPoints: names.map((name) => join("test", name)),
    outbase: "test",
    outdir: TEST_DIR,
    metafile: true,
  });
  return names.map((name) => {
    const program = join(TEST_DIR, name.replace(/\.ts$/, ".js"));
    const startsAgent = AGENT_SUPPORT in (metafile.outputs[program]?.inputs ?? {});
    return { name, program, startsAgent };
  });
}

function listTests(): string[] {
  if (!existsSync("test")) return [];
  return readdirSync("test", { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".test.ts")).sort();
}
