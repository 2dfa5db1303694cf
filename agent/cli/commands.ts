/**
 * The command line with all its help, as yargs reads it.
 *
 * @module
 */

import process from "node:process";
import yargs, { type Argv } from "yargs";
import { VERSION } from "../../protocol/version.ts";
import { printLine } from "../output.ts";
import type { PathOptions } from "../paths.ts";
import { CommandError, EXIT } from "./exit_codes.ts";

/**
 * Runs a command line to its end.
 *
 * @param args The arguments after the program's name.
 * @returns The exit code.
 * @throws {CommandError} Bad usage, or what the command itself throws.
 */
export async function runCommand(args: string[]): Promise<number> {
  let exitCode: number = EXIT.ok;
  const parser = createParser(async (run) => {
    exitCode = await run;
  });
  // yargs hands over what it would print: help, versions, completions.
  await parser.parseAsync(args, {}, (error, _argv, output) => {
    if (error) throw error;
    if (output !== "") printLine(output);
  });
  return exitCode;
}

/** Prints the help of `run`, which has a parser of its own. */
export async function printRunHelp(): Promise<void> {
  printLine(await describeRun(baseParser().version(false)).getHelp());
}

type Finish = (run: Promise<number>) => Promise<void>;

const EPILOGUE = `Exit codes: 92 lock file cannot be created, 93 lock lost while the
command ran, 124 contended or timed out, 125 own failure or bad usage,
126/127 command cannot be started or found.`;

function createParser(finish: Finish): Argv {
  const parser = baseParser()
    .usage("$0 [COMMAND]\n\nOne controlling session per lock name on this host.")
    .strictOptions()
    .version(VERSION)
    .epilogue(EPILOGUE);
  return addCommands(parser, finish);
}

function baseParser(): Argv {
  const parser = yargs()
    .scriptName("sshlock-agent")
    .help()
    .wrap(Math.min(80, process.stdout.columns ?? 80))
    .exitProcess(false)
    .fail((message, error) => {
      throw error ?? new CommandError(message, { hint: "sshlock-agent --help shows the usage" });
    });
  for (const { name, ...option } of PATH_OPTIONS) parser.option(name, option);
  return parser;
}

const PATH_OPTIONS = [
  { name: "socket", type: "string", describe: "socket of the agent (SSHLOCK_SOCKET)" },
  { name: "lock-dir", type: "string", describe: "lock files (SSHLOCK_LOCK_DIR)" },
  { name: "runtime-dir", type: "string", describe: "records (SSHLOCK_RUNTIME_DIR)" },
  { name: "state-dir", type: "string", describe: "token counter (SSHLOCK_STATE_DIR)" },
  { name: "holder", type: "string", describe: "holder's executable (SSHLOCK_HOLDER)" },
].map((option) => ({
  ...option,
  type: "string" as const,
  requiresArg: true,
  global: true,
  group: "Places:",
}));

function addCommands(parser: Argv, finish: Finish): Argv {
  return parser
    .command(
      ["list", "$0"],
      "show the locks that are held or waited for",
      (yargs) => listOptions(yargs),
      async (argv) => {
        const operands = argv._.map(String).filter((word) => word !== "list");
        if (operands.length > 0) {
          throw new CommandError(`Unknown command: ${operands[0]}`, {
            hint: "sshlock-agent --help shows the commands",
          });
        }
        const { runStatus } = await import("./status.ts");
        await finish(runStatus(pathsOf(argv), { ...argv, name: undefined }));
      },
    )
    .command(
      "status [NAME]",
      "show one lock, or all",
      (yargs) => listOptions(yargs.positional("NAME", { type: "string", describe: "the lock" })),
      async (argv) => {
        const { runStatus } = await import("./status.ts");
        await finish(runStatus(pathsOf(argv), { ...argv, name: argv.NAME }));
      },
    )
    .command("run", "run a command under a lock, as flock(1) does", (yargs) => yargs, refuseHere)
    .command(
      "watch [NAME]",
      "print each change of the locks as it happens",
      (yargs) =>
        yargs.positional("NAME", { type: "string", describe: "only this lock" })
          .option("json", { type: "boolean", describe: "one JSON object a line" }),
      async (argv) => {
        const { runWatch } = await import("./watch.ts");
        await finish(runWatch(pathsOf(argv), { name: argv.NAME, json: argv.json === true }));
      },
    )
    .command(
      "break NAME",
      "end the session that has a lock, and free it when it is gone",
      (yargs) =>
        yargs.positional("NAME", { type: "string", demandOption: true, describe: "the lock" })
          .option("why", {
            type: "string",
            requiresArg: true,
            demandOption: true,
            describe: "the reason; logged, and told to the session",
          }),
      async (argv) => {
        const { runBreak } = await import("./break.ts");
        await finish(runBreak(pathsOf(argv), argv.NAME, argv.why));
      },
    )
    .command(
      "serve",
      "be the agent of this host or user",
      (yargs) => serveOptions(yargs),
      async (argv) => {
        if (argv["check-config"] === true) {
          const { checkConfig } = await import("./check_config.ts");
          return await finish(checkConfig(argv.config, argv.json === true));
        }
        const { runServe } = await import("./serve.ts");
        await finish(runServe(pathsOf(argv), {
          group: argv.group,
          idleExit: argv["idle-exit"],
          config: argv.config,
          quiet: argv.quiet === true,
        }));
      },
    )
    .command(
      "bridge",
      "connect stdin and stdout to the agent; start one if none runs",
      (yargs) => yargs,
      refuseHere,
    )
    .command(
      "doctor",
      "check this host for all that breaks locks, and say how to mend it",
      (yargs) => configOption(yargs).option("json", { type: "boolean", describe: "print JSON" }),
      async (argv) => {
        const { runDoctor } = await import("./doctor.ts");
        const show = { json: argv.json === true, config: argv.config };
        await finish(runDoctor(pathsOf(argv), show));
      },
    )
    .command(
      "holder",
      "write the holder's executable",
      (yargs) =>
        yargs.option("write", {
          type: "string",
          requiresArg: true,
          demandOption: true,
          describe: "path of the file",
        }),
      async (argv) => {
        const { writeHolder } = await import("./write_holder.ts");
        await finish(writeHolder(argv.write));
      },
    )
    .command(
      "version",
      "print the version",
      (yargs) => yargs.option("json", { type: "boolean", describe: "print JSON" }),
      async (argv) => {
        const { printVersion } = await import("./version.ts");
        await finish(printVersion(argv.json === true));
      },
    )
    // Not by `.completion()`: its word is only looked for where there is no default command.
    .command(
      "completion",
      "print a completion script for bash or zsh",
      (yargs) => yargs,
      () => void parser.showCompletionScript(),
    );
}

/** Only help comes here: `command_line.ts` reads the arguments of these commands itself. */
function refuseHere(): never {
  throw new CommandError("Cannot read these arguments", {
    hint: "sshlock-agent --help shows the usage",
  });
}

function listOptions<T>(yargs: Argv<T>) {
  return yargs
    .option("json", { type: "boolean", describe: "print JSON" })
    .option("legend", {
      type: "boolean",
      default: true,
      describe: "headings and the line of totals; --no-legend leaves them out",
    });
}

function describeRun(yargs: Argv): Argv {
  return yargs
    .usage("$0 run [OPTIONS] NAME COMMAND [ARG..]\n\nRuns COMMAND while this host's lock is held.")
    .option("nonblock", { alias: "n", type: "boolean", describe: "fail at once if contended" })
    .option("wait", {
      alias: "w",
      type: "string",
      requiresArg: true,
      describe: "how long to wait: 30, 30s, 500ms, 2m; default: for ever",
    })
    .option("conflict-exit-code", {
      alias: "E",
      type: "number",
      requiresArg: true,
      default: EXIT.contended,
      describe: "exit code when contended or timed out",
    })
    .option("shared", {
      alias: "s",
      type: "boolean",
      describe: "share it with other shared claims",
    })
    .option("owner", { type: "string", requiresArg: true, describe: "identity of the claim" })
    .option("why", { type: "string", requiresArg: true, describe: "purpose, for who is refused" })
    .option("takeover", {
      type: "string",
      requiresArg: true,
      describe: "ask for its release, and say why",
    })
    .option("takeover-deadline", {
      type: "string",
      requiresArg: true,
      describe: "how long they have; then it is forced, if you may; default: 10s",
    })
    .conflicts("nonblock", ["wait", "takeover"])
    .example("$0 run -n deploy ./deploy.sh", "fail at once if it runs already")
    .example("$0 run -w 30s db -- pg_dump -f x", "wait for 30 s at most");
}

function configOption<T>(yargs: Argv<T>) {
  return yargs.option("config", {
    type: "string",
    requiresArg: true,
    describe: "config file; root: /etc/sshlock/agent.json",
  });
}

function serveOptions<T>(yargs: Argv<T>) {
  return configOption(yargs)
    .option("group", {
      type: "string",
      requiresArg: true,
      describe: 'group that may use it; root: "sshlock" where there is one',
    })
    .option("idle-exit", {
      type: "string",
      requiresArg: true,
      describe: "end when unused for so long: 60s, 5m",
    })
    .option("quiet", { type: "boolean", describe: "write no events to stderr" })
    .option("check-config", {
      type: "boolean",
      describe: "only check the config file, and print what it makes",
    })
    .option("json", {
      type: "boolean",
      implies: "check-config",
      describe: "with --check-config: print JSON",
    });
}

function pathsOf(argv: Record<string, unknown>): PathOptions {
  return {
    socket: argv.socket as string | undefined,
    lockDir: argv["lock-dir"] as string | undefined,
    runtimeDir: argv["runtime-dir"] as string | undefined,
    stateDir: argv["state-dir"] as string | undefined,
    holder: argv.holder as string | undefined,
  };
}
