/**
 * This program itself: its runtime, its C library, and what the environment does to them.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import process from "node:process";
import { VERSION } from "../../protocol/version.ts";
import { loadLibc } from "../libc.ts";
import { type Finding, found } from "./finding.ts";

/** Variables that change what a Bun-compiled binary does. */
const BUN_VARIABLES = ["BUN_OPTIONS", "BUN_BE_BUN"];

/** The C library that the agent calls, and variables that would change its runtime. */
export async function checkRuntime(): Promise<Finding[]> {
  return [await checkLibc(), checkVariables()];
}

async function checkLibc(): Promise<Finding> {
  const id = "libc";
  const { bun, deno } = process.versions as Record<string, string | undefined>;
  const runtime = deno === undefined ? `bun ${bun}` : `deno ${deno}`;
  try {
    await loadLibc();
  } catch (error) {
    const hint = "install the build for this C library: glibc or musl";
    return found(id, "fail", (error as Error).message, hint);
  }
  const what = `sshlock-agent ${VERSION} on ${runtime}, ${process.arch}, ${libcName()}`;
  return found(id, "ok", what);
}

function libcName(): string {
  try {
    const maps = readFileSync("/proc/self/maps", "latin1");
    if (/\/ld-musl-|\/libc\.musl-/.test(maps)) return "musl";
    return /\/libc(-[\d.]+)?\.so/.test(maps) ? "glibc" : "an unknown C library";
  } catch {
    return "a C library that cannot be named without /proc";
  }
}

function checkVariables(): Finding {
  const id = "bun-variables";
  const set = BUN_VARIABLES.filter((name) => (process.env[name] ?? "") !== "");
  if (set.length === 0) {
    return found(id, "ok", `${BUN_VARIABLES.join(" and ")} are not set`);
  }
  const what = `${set.join(" and ")} in the environment can change what the agent does`;
  return found(id, "warn", what, `unset ${set.join(" ")}, where it is started`);
}
