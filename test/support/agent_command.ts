import { type ChildProcess, spawn } from "node:child_process";
import { agentCommand, type AgentDirs, builtHolder, dirArgs } from "./agent_process.ts";
import { type ChildExit, childExit, eachLine } from "./child.ts";
import { EventLog, within } from "./events.ts";

/** How a command of the agent ended, and what it said. */
export interface CommandEnd extends ChildExit {
  stdout: string;
  stderr: string;
}

/** A command of the agent that runs. */
export interface RunningCommand extends AsyncDisposable {
  readonly child: ChildProcess;
  readonly pid: number;
  /** Its lines so far, stdout and stderr apart. */
  readonly out: EventLog<string>;
  readonly err: EventLog<string>;
  readonly end: Promise<CommandEnd>;
}

/** What a command is started with. */
export interface CommandOptions {
  env?: Record<string, string>;
  /** The holder's program; the built one unless told, none with `null`. */
  holder?: string | null;
}

/** The arguments that place a command of the agent, and the command's own ones behind them. */
export function commandLine(
  dirs: AgentDirs,
  args: string[],
  { holder = builtHolder() }: CommandOptions = {},
): string[] {
  const places = [...dirArgs(dirs), ...(holder === null ? [] : ["--holder", holder])];
  return [...agentCommand(), ...places, ...args];
}

/** Starts a command of the agent on these folders. Disposing of it kills it. */
export function startCommand(
  dirs: AgentDirs,
  args: string[],
  options: CommandOptions = {},
): RunningCommand {
  const [program, ...rest] = commandLine(dirs, args, options) as [string, ...string[]];
  const env = { ...process.env, ...options.env };
  const child = spawn(program, rest, { stdio: ["pipe", "pipe", "pipe"], env });
  child.stdin.on("error", () => {}); // EPIPE once it has ended
  const [out, err] = [new EventLog<string>(), new EventLog<string>()];
  eachLine(child.stdout, (line) => out.push(line));
  eachLine(child.stderr, (line) => err.push(line));
  const exit = childExit(child);
  const closed = new Promise((resolve) => child.once("close", resolve));
  const end = (async () => {
    const ending = await exit;
    await closed;
    out.end("the command has ended");
    err.end("the command has ended");
    return { ...ending, stdout: textOf(out), stderr: textOf(err) };
  })();
  end.catch(() => {});
  const dispose = async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    await exit;
  };
  return { child, pid: child.pid as number, out, err, end, [Symbol.asyncDispose]: dispose };
}

/** Runs a command of the agent to its end, with nothing on its standard input. */
export async function runCommand(
  dirs: AgentDirs,
  args: string[],
  options: CommandOptions = {},
): Promise<CommandEnd> {
  await using command = startCommand(dirs, args, options);
  command.child.stdin?.end();
  return await within(command.end, { deadlineMs: 30_000, what: `the end of ${args.join(" ")}` });
}

function textOf(lines: EventLog<string>): string {
  return lines.all.map((line) => `${line}\n`).join("");
}
