import { execFile } from "node:child_process";
import { basename, join } from "node:path";
import { promisify } from "node:util";

/**
 * Bundles a program of the tests, which a test starts as a process of its own.
 *
 * @param source Relative to the project's root.
 * @returns The path of the module, in `dir`.
 */
export async function bundleProgram(source: string, dir: string): Promise<string> {
  const path = join(dir, `${basename(source, ".ts")}.mjs`);
  await promisify(execFile)("node_modules/.bin/esbuild", [
    ...[source, "--bundle", "--platform=node", "--format=esm", "--target=node20"],
    ...[`--outfile=${path}`, "--log-level=error"],
  ]);
  return path;
}
