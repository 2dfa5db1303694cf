/**
 * How this program is started once more.
 *
 * @module
 */

import process from "node:process";

/** The command that this process was started with: the binary, or a runtime with the bundle. */
export function ownCommand(): string[] {
  const { execPath, argv } = process;
  const name = execPath.split("/").at(-1)!;
  if (name.startsWith("deno")) return [execPath, "run", "-A", argv[1]!];
  if (name.startsWith("bun")) return [execPath, argv[1]!];
  return [execPath];
}
