import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";

/** A program of this project's node_modules is not there, or not for this machine. */
export class ToolMissingError extends Error {
  override name = "ToolMissingError";
  /** The npm package that should have brought it. */
  readonly packageName: string;

  constructor(packageName: string, options?: ErrorOptions) {
    super(`Cannot find an executable of ${packageName} for ${process.platform} ${process.arch}`, {
      cause: options?.cause,
    });
    this.packageName = packageName;
  }
}

/**
 * Finds Bun's executable.
 *
 * The launcher that the npm package `bun` brings works only after its install script, which this
 * project never runs, so the executable of the platform package is used itself.
 *
 * @returns An absolute path.
 * @throws {ToolMissingError} No package of this platform has it.
 */
export function findBun(): string {
  const arch = process.arch === "arm64" ? "aarch64" : process.arch;
  const musl = process.platform === "linux" && !isGlibc();
  return findExecutable("bun", [
    `@oven/bun-${process.platform}-${arch}${musl ? "-musl" : ""}/bin/bun`,
  ]);
}

/**
 * Finds Deno's executable, past the launcher, which would be one more process in between.
 *
 * @returns An absolute path.
 * @throws {ToolMissingError} No package of this platform has it.
 */
export function findDeno(): string {
  const suffix = process.platform === "linux" ? "-glibc" : "";
  return findExecutable("deno", [`@deno/${process.platform}-${process.arch}${suffix}/deno`]);
}

/**
 * Finds the TypeScript compiler, a program for Node.
 *
 * @returns An absolute path.
 */
export function findTsc(): string {
  return join(packageDir("typescript"), "bin/tsc");
}

/** The version of an installed package of this project. */
export function installedVersion(packageName: string): string {
  return JSON.parse(readFileSync(join(packageDir(packageName), "package.json"), "utf8")).version;
}

function findExecutable(packageName: string, candidates: string[]): string {
  for (const candidate of candidates) {
    const path = resolve("node_modules", candidate);
    if (!existsSync(path)) continue;
    accessSync(path, constants.X_OK);
    return path;
  }
  throw new ToolMissingError(packageName);
}

function packageDir(packageName: string): string {
  return dirname(createRequire(resolve("package.json")).resolve(`${packageName}/package.json`));
}

function isGlibc(): boolean {
  const header =
    (process.report.getReport() as { header?: { glibcVersionRuntime?: string } }).header;
  return header?.glibcVersionRuntime !== undefined;
}
