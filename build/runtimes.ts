import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";

import { CACHE_DIR } from "./paths.ts";
import { runTool } from "./run_tool.ts";

/** A downloaded package is not the one that package-lock.json pins. */
export class IntegrityError extends Error {
  override name = "IntegrityError";
}

/**
 * Returns the Bun executable of another kind of machine, from the cache or else from npm.
 *
 * The version and the SHA-512 that it must have are the ones in package-lock.json, which names every
 * platform's package although npm installs only this machine's.
 *
 * @param packageName One of bun's platform packages.
 * @throws {IntegrityError} The package is not pinned, or the download differs from its pin.
 * @throws {ToolFailedError} npm could not fetch it.
 */
export function fetchRuntime(packageName: string): string {
  const { version, integrity } = readPin(packageName);
  const folder = resolve(CACHE_DIR, "runtimes", `${packageName.replace("/", "-")}-${version}`);
  const executable = join(folder, "package/bin/bun");
  if (existsSync(executable)) return executable;

  mkdirSync(join(CACHE_DIR, "runtimes"), { recursive: true });
  const draft = mkdtempSync(resolve(CACHE_DIR, "runtimes", "fetch-"));
  try {
    const printed = runTool("npm", [
      "pack",
      `${packageName}@${version}`,
      "--silent",
      `--pack-destination=${draft}`,
    ]);
    const tarball = join(draft, printed.trim().split("\n").at(-1) ?? "");
    verify(tarball, integrity);
    runTool("tar", ["-xzf", tarball, "-C", draft, "package/bin/bun"]);
    rmSync(tarball);
    renameSync(draft, folder);
    return executable;
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

/**
 * Compares a file with a Subresource Integrity string.
 *
 * @throws {IntegrityError} The file's SHA-512 is another one.
 */
export function verify(path: string, integrity: string): void {
  const actual = `sha512-${createHash("sha512").update(readFileSync(path)).digest("base64")}`;
  if (actual !== integrity) {
    throw new IntegrityError(`Cannot use ${path}: its hash is ${actual}, pinned is ${integrity}`);
  }
}

function readPin(packageName: string): { version: string; integrity: string } {
  const { packages } = JSON.parse(readFileSync("package-lock.json", "utf8"));
  const pin = packages[`node_modules/${packageName}`];
  if (pin?.integrity === undefined) {
    throw new IntegrityError(`Cannot fetch ${packageName}: package-lock.json does not pin it`);
  }
  return pin;
}
