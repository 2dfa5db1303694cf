import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Metafile } from "esbuild";

import { LICENCES } from "./paths.ts";

/**
 * Writes the licence texts of all packages that bundles contain, as their licences ask for.
 *
 * @throws {Error} A bundled package has no licence file.
 */
export function writeLicences(metafiles: readonly Metafile[]): void {
  const inputs = metafiles.flatMap((metafile) => Object.keys(metafile.inputs));
  const folders = new Set(
    inputs.flatMap((path) => path.match(/^.*node_modules\/(?:@[^/]+\/)?[^/]+/) ?? []),
  );
  const texts = [...folders].sort().map((folder) =>
    `${folder.replace(/^.*node_modules\//, "")}\n\n${licenceText(folder).trim()}\n`
  );
  writeFileSync(LICENCES, texts.join(`\n${"-".repeat(80)}\n\n`));
}

function licenceText(folder: string): string {
  const name = readdirSync(folder).find((file) => /^licen[cs]e/i.test(file));
  if (name === undefined) throw new Error(`Cannot bundle ${folder}: it has no licence file`);
  return readFileSync(join(folder, name), "utf8");
}
