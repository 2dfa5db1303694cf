/**
 * `holder --write`: writes the holder's executable for this machine.
 *
 * @module
 */

import { chmodSync, renameSync, writeFileSync } from "node:fs";
import process from "node:process";
import { type HolderArch, holderImage } from "../holder/image.ts";
import { CommandError, EXIT } from "./exit_codes.ts";

/**
 * Replaces a file by the holder's executable, in one step: a running holder keeps the old one.
 *
 * @param path The file.
 * @returns The exit code.
 * @throws {CommandError} The file cannot be written.
 */
export function writeHolder(path: string): Promise<number> {
  const next = `${path}.new`;
  try {
    writeFileSync(next, holderImage(process.arch as HolderArch), { mode: 0o755 });
    chmodSync(next, 0o755);
    renameSync(next, path);
  } catch (cause) {
    throw new CommandError(`Cannot write the holder to ${path}: ${(cause as Error).message}`, {
      cause,
    });
  }
  return Promise.resolve(EXIT.ok);
}
