/**
 * Reads the command line and runs the subcommand it names.
 *
 * @module
 */

import yargs, { type Argv } from "yargs";

import { COMMIT, VERSION } from "../../protocol/version.ts";
import { type BreakArguments, breakLock } from "./break.ts";
import { EXIT, UsageError } from "./exit_codes.ts";
import { explain } from "./explain.ts";
import { type HoldArguments, holdLock } from "./hold.ts";
import { cutAtCommand } from "./operands.ts";
import { CLAIM_OPTIONS, CONNECT_OPTIONS, valueOptionsOf } from "./options.ts";
import { printError, printLine } from "./output.ts";
import { type RunArguments, runUnderLock } from "./run.ts";
import { showStatus, type StatusArguments } from "./status.ts";
import { StoppedError } from "./stop_signals.ts";
import { type WatchArguments, watchLocks } from "./watch.ts";

/** A help text that is wider cannot be read in a terminal of the usual size. */
const HELP_COLUMNS = 80;

const RUN_OPTIONS = {
  timeout: {
    type: "string",
    requiresArg: true,
    describe: "Time for the command, then it is ended: 90s, 10m",
  },
} as const;

const BREAK_WHY = {
  type: "string",
  requiresArg: true,
  demandOption: true,
  describe: "The reason: it is logged, and told to who has the lock",
} as const;

const SHOW_OPTIONS = {
  json: { type: "boolean", describe: "Print JSON" },
  legend: { type: "boolean", default: true, hidden: true },
  "no-legend": { type: "boolean", describe: "Print neither headings nor totals" },
} as const;

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
    if (error instanceof StoppedError) return error.exitCode;
    // Whoever read our output has gone (`| head`): there is nobody to tell.
    if ((error as NodeJS.ErrnoException).code === "EPIPE") return EXIT.brokenPipe;
    const { message, hint, exitCode } = explain(error, args[0]);
    printError(message, hint);
    return exitCode;
  }
}

async function dispatch(args: string[]): Promise<number> {
  const { own, command } = args[0] === "run"
    ? cutAtCommand(args.slice(1), VALUE_OPTIONS, 2)
    : { own: args.slice(1), command: [] };
  const chosen: { action?: () => Promise<number> } = {};
  const parser = makeParser(command, (action) => chosen.action = action);
  await parse(parser, [...args.slice(0, 1), ...own]);
  return await chosen.action?.() ?? EXIT.ok;
}

/** With a callback, yargs hands over its help instead of printing it and ending the process. */
async function parse(parser: Argv, args: string[]): Promise<void> {
  let text = "";
  try {
    await parser.parse(args, (_error: unknown, _parsed: unknown, output: string) => text = output);
  } catch (error) {
    throw usageError(error as Error);
  }
  if (text !== "") printLine(text);
}

const VALUE_OPTIONS = valueOptionsOf(CONNECT_OPTIONS, CLAIM_OPTIONS, RUN_OPTIONS);

function makeParser(command: string[], choose: (action: () => Promise<number>) => void): Argv {
  const withHost = (parser: Argv) =>
    parser.positional("host", { type: "string", describe: "[user@]host[:port]" });
  const named = (parser: Argv) =>
    withHost(parser).positional("name", { type: "string", describe: "Name of the lock" });
  return yargs()
    .scriptName("sshlock")
    .locale("en")
    .wrap(HELP_COLUMNS)
    .parserConfiguration({ "camel-case-expansion": false, "boolean-negation": true })
    .strict()
    .usage("$0: one controlling SSH session per host and lock name")
    .command(
      "run <host> <name>",
      "Run a command on a host under a lock",
      (parser) =>
        named(parser)
          .usage("sshlock run [OPTION…] [USER@]HOST[:PORT] NAME [--] COMMAND [ARGUMENT…]")
          .options({ ...CLAIM_OPTIONS, ...RUN_OPTIONS, ...CONNECT_OPTIONS })
          .example("$0 run -i key root@db1 deploy -- systemctl restart db", "")
          .example("$0 run -i key -w 30s root@db1 deploy -- sh -c 'df | sort'", "")
          .epilog(EXIT_CODES),
      (args) => choose(() => runUnderLock(args as unknown as RunArguments, command)),
    )
    .command(
      "hold <host> <name>",
      "Hold a lock until ^C",
      (parser) =>
        named(parser)
          .usage("sshlock hold [OPTION…] [USER@]HOST[:PORT] NAME")
          .options({ ...CLAIM_OPTIONS, json: SHOW_OPTIONS.json, ...CONNECT_OPTIONS })
          .example("$0 hold -i key --why 'disk swap' root@db1 deploy", ""),
      (args) => choose(() => holdLock(args as unknown as HoldArguments)),
    )
    .command(
      "status <host> [name]",
      "Show who has which lock on a host",
      (parser) =>
        named(parser)
          .usage("sshlock status [OPTION…] [USER@]HOST[:PORT] [NAME]")
          .options({ ...SHOW_OPTIONS, ...CONNECT_OPTIONS })
          .example("$0 status -i key root@db1", "")
          .example("$0 status -i key root@db1 deploy --json", ""),
      (args) => choose(() => showStatus(args as unknown as StatusArguments)),
    )
    .command(
      "watch <host> [name]",
      "Print each change of the locks of a host",
      (parser) =>
        named(parser)
          .usage("sshlock watch [OPTION…] [USER@]HOST[:PORT] [NAME]")
          .options({ json: SHOW_OPTIONS.json, ...CONNECT_OPTIONS })
          .example("$0 watch -i key root@db1 deploy", ""),
      (args) => choose(() => watchLocks(args as unknown as WatchArguments)),
    )
    .command(
      "break <host> <name>",
      "End the session that has a lock",
      (parser) =>
        named(parser)
          .usage("sshlock break [OPTION…] [USER@]HOST[:PORT] NAME --why TEXT")
          .options({ why: BREAK_WHY, ...CONNECT_OPTIONS })
          .example("$0 break -i key root@db1 deploy --why 'its owner hangs'", ""),
      (args) => choose(() => breakLock(args as unknown as BreakArguments)),
    )
    .completion("completion", "Print a completion script for bash or zsh")
    .demandCommand(1, 1, "no subcommand was given")
    .example("$0 run -i key root@db1 deploy -- uptime", "")
    .epilog("sshlock SUBCOMMAND --help says more.")
    .help()
    .alias("help", "h")
    .version(`sshlock ${VERSION} (${COMMIT})`)
    .exitProcess(false)
    .fail((message, error) => {
      throw error ?? new Error(message);
    });
}

const EXIT_CODES = `Options end at the command. It gets SSHLOCK_NAME, SSHLOCK_TOKEN and
SSHLOCK_OWNER. Each word of it is data: for pipes and variables use sh -c.

Exit codes: that of the command (128 + N after signal N), or
   92  the lock file cannot be created
   93  the lock was lost, and the command ended
  124  another has the lock, or the command took longer than --timeout
  125  bad usage, or a failure of sshlock
  255  the SSH connection failed`;

function usageError(error: Error): UsageError {
  if (error instanceof UsageError) return error;
  const message = error.message.split(/\s*\n\s*/).join(" ").trim();
  const state = message.charAt(0).toLowerCase() + message.slice(1);
  return new UsageError(`Cannot read command line: ${state}`, "sshlock --help shows what there is");
}
