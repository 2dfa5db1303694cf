/**
 * Reads the options of `run`, which stop at the first operand as what follows is the command's, and of
 * `serve`, whose memory yargs would double.
 *
 * @module
 */

import type { PathOptions } from "../paths.ts";
import { CommandError, EXIT } from "./exit_codes.ts";
import type { RunOptions } from "./run.ts";
import type { ServeOptions } from "./serve.ts";

/** Options and what they are called in the result; `value` ones take an argument. */
export type ArgTable = Record<string, { key: string; value: boolean }>;

/** The options that say where things are; they may stand before any command. */
export const PATH_ARGS: ArgTable = {
  "--socket": { key: "socket", value: true },
  "--lock-dir": { key: "lockDir", value: true },
  "--runtime-dir": { key: "runtimeDir", value: true },
  "--state-dir": { key: "stateDir", value: true },
  "--holder": { key: "holder", value: true },
};

const NONBLOCK = { key: "nonblock", value: false };
const WAIT = { key: "wait", value: true };
const CONFLICT = { key: "conflict", value: true };
const SHARED = { key: "shared", value: false };
const HELP = { key: "help", value: false };

const RUN_ARGS: ArgTable = {
  ...PATH_ARGS,
  "-n": NONBLOCK,
  "--nonblock": NONBLOCK,
  "-w": WAIT,
  "--wait": WAIT,
  "-E": CONFLICT,
  "--conflict-exit-code": CONFLICT,
  "-s": SHARED,
  "--shared": SHARED,
  "-h": HELP,
  "--help": HELP,
  "--owner": { key: "owner", value: true },
  "--why": { key: "why", value: true },
  "--takeover": { key: "takeover", value: true },
  "--takeover-deadline": { key: "takeoverDeadline", value: true },
};

/** The options of `serve`, beside those of places. */
const SERVE_ARGS: ArgTable = {
  ...PATH_ARGS,
  "--group": { key: "group", value: true },
  "--idle-exit": { key: "idleExit", value: true },
  "--config": { key: "config", value: true },
  "--quiet": { key: "quiet", value: false },
};

const USAGE = "sshlock-agent run --help shows the usage";

/** What the arguments of `run` mean. */
export type ParsedRun =
  | { kind: "help" }
  | { kind: "run"; paths: PathOptions; run: RunOptions };

/**
 * Reads the arguments of `run`.
 *
 * @param args All arguments but `run` itself.
 * @throws {CommandError} Bad usage.
 */
export function parseRun(args: string[]): ParsedRun {
  const { options, operands } = takeOptions(args, RUN_ARGS, "refuse");
  if (options.help !== undefined) return { kind: "help" };
  const [name, ...rest] = operands;
  const command = rest[0] === "--" ? rest.slice(1) : rest;
  if (name === undefined || command.length === 0) {
    throw new CommandError("Cannot run: NAME and COMMAND are needed", { hint: USAGE });
  }
  if (options.nonblock !== undefined && options.wait !== undefined) {
    throw new CommandError("Cannot run: --nonblock and --wait exclude each other", { hint: USAGE });
  }
  checkTakeover(options);
  const run: RunOptions = {
    name,
    command,
    wait: options.nonblock === undefined ? options.wait : "0",
    conflictExitCode: Number(options.conflict ?? EXIT.contended),
    shared: options.shared !== undefined,
    owner: options.owner,
    purpose: options.why,
    takeover: options.takeover,
    takeoverDeadline: options.takeoverDeadline,
  };
  return { kind: "run", paths: options, run };
}

function checkTakeover(options: Record<string, string | undefined>): void {
  const refuse = (why: string) => new CommandError(`Cannot run: ${why}`, { hint: USAGE });
  if (options.takeover !== undefined && options.nonblock !== undefined) {
    throw refuse("--nonblock and --takeover exclude each other");
  }
  if (options.takeover === undefined && options.takeoverDeadline !== undefined) {
    throw refuse("--takeover-deadline needs --takeover");
  }
}

/**
 * Reads the arguments of `serve`.
 *
 * @param args All arguments but `serve` itself.
 * @returns `undefined` where anything but its options is among them: yargs knows help and errors.
 */
export function parseServe(
  args: string[],
): { paths: PathOptions; serve: ServeOptions } | undefined {
  const { options, operands } = takeOptions(args, SERVE_ARGS, "leave");
  if (operands.length > 0) return undefined;
  const { group, idleExit, config, quiet } = options;
  return { paths: options, serve: { group, idleExit, config, quiet: quiet !== undefined } };
}

/**
 * Takes the options before the first operand: `--option value`, `--option=value`, `-o value`.
 *
 * @param args The arguments.
 * @param table The options there are.
 * @param unknown Whether an option that is not in the table is an error or ends the options.
 * @returns Values by key (the empty string for an option without one), and the rest.
 * @throws {CommandError} An unknown option, or one without its value.
 */
export function takeOptions(
  args: string[],
  table: ArgTable,
  unknown: "refuse" | "leave",
): { options: Record<string, string | undefined>; operands: string[] } {
  const options: Record<string, string | undefined> = {};
  let index = 0;
  while (index < args.length) {
    const arg = args[index]!;
    if (!/^-./.test(arg)) break;
    if (arg === "--") return { options, operands: args.slice(index + 1) };
    const [, name, inline] = /^(--[^=]+)=(.*)$/s.exec(arg) ?? [, arg, undefined];
    const option = table[name!];
    if (option === undefined && unknown === "leave") break;
    if (option === undefined) {
      throw new CommandError(`Unknown option: ${arg}`, { hint: USAGE });
    }
    index++;
    if (!option.value) options[option.key] = "";
    else options[option.key] = inline ?? valueAt(args, index++, name!);
  }
  return { options, operands: args.slice(index) };
}

function valueAt(args: string[], index: number, option: string): string {
  const value = args[index];
  if (value !== undefined) return value;
  throw new CommandError(`Cannot read ${option}: it needs a value`, { hint: USAGE });
}
