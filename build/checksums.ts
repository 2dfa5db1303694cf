import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";

import { CHECKSUMS, DIST_DIR } from "./paths.ts";

/** Writes the SHA-256 of every file that install.sh puts on a server, for `sha256sum -c`. */
export function writeChecksums(): void {
  const names = readdirSync(DIST_DIR).filter(isInstalled).sort();
  const lines = names.map((name) => `${sha256(join(DIST_DIR, name))}  ${basename(name)}\n`);
  writeFileSync(CHECKSUMS, lines.join(""));
}

function isInstalled(name: string): boolean {
  return /^sshlock-(agent|holder)(-linux)?(-(x64|arm64))?(-musl)?$/.test(name);
}

function sha256(path: string): string {
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}
