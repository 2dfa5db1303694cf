import { chmodSync, renameSync, writeFileSync } from "node:fs";

import { holderImage } from "../agent/holder/image.ts";
import { HOLDER_IMAGE } from "./paths.ts";

/** Writes the holder images of both architectures, and the one for this machine beside them. */
export function writeHolderImages(): void {
  const here = process.arch === "arm64" ? "arm64" : "x64";
  for (const arch of ["x64", "arm64"] as const) {
    const image = holderImage(arch);
    writeExecutable(`${HOLDER_IMAGE}-${arch}`, image);
    if (arch === here) writeExecutable(HOLDER_IMAGE, image);
  }
}

// By rename, as a holder may be running from the old file (ETXTBSY, execve(2)).
function writeExecutable(path: string, bytes: Uint8Array): void {
  writeFileSync(`${path}.new`, bytes);
  chmodSync(`${path}.new`, 0o755);
  renameSync(`${path}.new`, path);
}
