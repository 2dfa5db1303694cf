/**
 * Reads the command line and runs the subcommand it names.
 *
 * `run` and `bridge` start as often as flock(1) does, and `serve` stays for years: they and `version`
 * are read here, without yargs, whose import takes longer than all the rest and doubles the memory. Everything else, and all help, is left to
 * `commands.ts`. Each subcommand is loaded only when it is called.
 *
 * @module
 */

import { WireError } from "../../protocol/wire_error.ts";
import { printError } from "../output.ts";
import { CommandError, EXIT } from "./exit_codes.ts";
import { parseRun, parseServe, PATH_ARGS, takeOptions } from "./run_args.ts";

/**
 * Runs a command line to its end.
 *
 * @param args The arguments after the program's name.
 * @returns The exit code.
 */
export async function runCommandLine(args: string[]): Promise<number> {
  try {
    return await dispatch(args);
  } catch (error) {
    return report(error as Error);
  }
}

async function dispatch(args: string[]): Promise<number> {
  const before = takeOptions(args, PATH_ARGS, "leave");
  const [command, ...rest] = before.operands;
  const placed = args.slice(0, args.length - before.operands.length);
  if (command === "run") return await dispatchRun([...placed, ...rest]);
  if (command === "keep") {
    const { keepLock } = await import("./keep.ts");
    return await keepLock(rest);
  }
  const serve = command === "serve" ? parseServe([...placed, ...rest]) : undefined;
  if (serve !== undefined) {
    const { runServe } = await import("./serve.ts");
    return await runServe(serve.paths, serve.serve);
  }
  const after = takeOptions(rest, PATH_ARGS, "leave");
  const isPlain = after.operands.length === 0;
  if (command === "bridge" && isPlain) {
    const { runBridge } = await import("./bridge.ts");
    return await runBridge({ ...before.options, ...after.options });
  }
  if (command === "version" && isPlain) {
    const { printVersion } = await import("./version.ts");
    return await printVersion(false);
  }
  const { runCommand } = await import("./commands.ts");
  return await runCommand(args);
}

async function dispatchRun(args: string[]): Promise<number> {
  const parsed = parseRun(args);
  if (parsed.kind === "help") {
    const { printRunHelp } = await import("./commands.ts");
    await printRunHelp();
    return EXIT.ok;
  }
  const { runUnderLock } = await import("./run.ts");
  return await runUnderLock(parsed.paths, parsed.run);
}

function report(error: Error): number {
  if (error instanceof CommandError) {
    printError(error.message, error.hint);
    return error.exitCode;
  }
  printError(error.message);
  if (error instanceof WireError && error.code === "lock-file") return EXIT.lockFile;
  if (error instanceof WireError && error.code === "contended") return EXIT.contended;
  return EXIT.failure;
}
