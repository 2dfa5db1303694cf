import * as fs from "node:fs";
import { join } from "node:path";
import ts from "typescript";

import { CACHE_DIR, DIST_DIR } from "./paths.ts";
import { runTool } from "./run_tool.ts";
import { findTsc } from "./tools.ts";

/** A published declaration names an npm package, which a consumer would then have to install. */
export class ForeignTypeError extends Error {
  override name = "ForeignTypeError";
}

/**
 * Writes the controller's .d.ts files beside its bundle, with what they use of `protocol/`.
 *
 * @throws {ToolFailedError} The sources have type errors, or use what a declaration cannot express.
 * @throws {ForeignTypeError} A declaration imports an npm package.
 */
export function emitDeclarations(): void {
  fs.mkdirSync(CACHE_DIR, { recursive: true });
  const draft = fs.mkdtempSync(join(CACHE_DIR, "types-"));
  try {
    runTool(process.execPath, [findTsc(), "-p", "tsconfig.types.json", "--outDir", draft]);
    for (const name of fs.readdirSync(draft, { recursive: true, encoding: "utf8" })) {
      if (name.endsWith(".d.ts")) publishable(join(draft, name));
    }
    removeOld();
    fs.cpSync(draft, DIST_DIR, { recursive: true });
  } finally {
    fs.rmSync(draft, { recursive: true, force: true });
  }
}

// tsc leaves ./x.ts in declarations; a consumer has only x.d.ts, which ./x.js stands for.
function publishable(path: string): void {
  const text = fs.readFileSync(path, "utf8").replaceAll(
    /((?:from|import)\s*\(?\s*")(\.[^"]*)\.ts"/g,
    '$1$2.js"',
  );
  const modules = ts.preProcessFile(text).importedFiles.map(({ fileName }) => fileName);
  const foreign = modules.find((name) => !/^(\.|node:)/.test(name));
  if (foreign !== undefined) {
    throw new ForeignTypeError(`Cannot publish the types of ${path}: they import "${foreign}"`);
  }
  fs.writeFileSync(path, text);
}

// Declarations of files that are gone from the sources; the bundle beside them stays.
function removeOld(): void {
  for (const folder of ["controller", "protocol"].map((name) => join(DIST_DIR, name))) {
    fs.mkdirSync(folder, { recursive: true });
    for (const name of fs.readdirSync(folder, { recursive: true, encoding: "utf8" })) {
      if (name.endsWith(".d.ts")) fs.rmSync(join(folder, name));
    }
  }
}
