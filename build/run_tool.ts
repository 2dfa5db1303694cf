import { spawnSync } from "node:child_process";
import { basename } from "node:path";

/** A program that the build needs ended with a failure; the message carries what it printed. */
export class ToolFailedError extends Error {
  override name = "ToolFailedError";
  /** Its exit code, or `null` when a signal ended it or it could not be started. */
  readonly exitCode: number | null;

  constructor(command: string, exitCode: number | null, output: string, options?: ErrorOptions) {
    super(`Cannot run ${command}: ${output || `exit code ${exitCode}`}`, options);
    this.exitCode = exitCode;
  }
}

/**
 * Runs a program to its end with nothing on its standard input.
 *
 * @returns What it printed on standard output.
 * @throws {ToolFailedError} It could not be started, or its exit code is not 0.
 */
export function runTool(command: string, args: string[], env?: Record<string, string>): string {
  const result = spawnSync(command, args, {
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1", ...env },
    maxBuffer: 1 << 26,
    stdio: ["ignore", "pipe", "pipe"],
  });
  if (result.status === 0) return result.stdout;
  const output = `${result.stdout ?? ""}${result.stderr ?? ""}`.trim();
  throw new ToolFailedError(
    `${basename(command)} ${args[0] ?? ""}`,
    result.status,
    result.error?.message ?? output,
    { cause: result.error },
  );
}
