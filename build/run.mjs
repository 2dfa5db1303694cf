// Runs a TypeScript program of this project on Node 20, which cannot load .ts itself:
//
//     node build/run.mjs ENTRY.ts [ARGUMENT...]
//
// The entry is bundled by esbuild (packages stay outside) and imported into this process, with the
// project's root as the working directory. What it prints, catches and exits with is its own.

import { mkdirSync, renameSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const entry = process.argv[2];
if (entry === undefined) {
  process.stderr.write("Usage: node build/run.mjs ENTRY.ts [ARGUMENT...]\n");
  process.exit(125);
}
process.chdir(root);

const { build } = await import("esbuild").catch((cause) => {
  process.stderr.write(`Cannot load esbuild: ${cause.message}\nHint: run npm ci first\n`);
  process.exit(125);
});

// Inside node_modules, so that the bundle finds the packages that stay outside of it.
const folder = join(root, "node_modules/.cache/sshlock/run");
const program = join(folder, `${entry.replaceAll(/[^A-Za-z0-9]+/g, "_")}.mjs`);
const draft = `${program}.${process.pid}`;
mkdirSync(folder, { recursive: true });
await build({
  entryPoints: [entry],
  outfile: draft,
  bundle: true,
  format: "esm",
  platform: "node",
  target: "node20",
  packages: "external",
  sourcemap: "inline",
  logLevel: "error",
}).catch(() => process.exit(125));
// By rename: another run of the same entry never imports half a file.
renameSync(draft, program);

process.setSourceMapsEnabled(true);
process.argv.splice(1, 2, resolve(entry));
await import(pathToFileURL(program).href);
