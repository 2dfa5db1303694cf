import { execFile } from "node:child_process";
import { join, resolve } from "node:path";
import { promisify } from "node:util";

import { agentCommand, builtHolder, dirArgs } from "../test/support/agent_process.ts";
import { interleave, type Times } from "./sampling.ts";
import type { World } from "./world.ts";

/** Started and timed as a script starts it: by bash, until it has ended. Prints microseconds. */
const TIMER = `
start=$EPOCHREALTIME
"$@" </dev/null >/dev/null || exit
end=$EPOCHREALTIME
echo $(( \${end/./} - \${start/./} ))
`;

/** Measures whole commands, from fork to wait. */
export function measureCommands(
  { agent, dir }: World,
  rounds: number,
  signal: AbortSignal,
): Promise<Record<"flock" | "run" | "bash" | "version" | "true", Times>> {
  const [program, ...words] = agentCommand() as [string, ...string[]];
  const command = [program.includes("/") ? resolve(program) : program, ...words];
  const places = [...dirArgs(agent.dirs), "--holder", resolve(builtHolder())];
  return interleave(
    {
      flock: () => time(["flock", join(dir, "flock"), "true"]),
      run: () => time([...command, "run", ...places, "command", "true"]),
      bash: () => time(["bash", "-c", ":"]),
      version: () => time([...command, "version"]),
      true: () => time(["/bin/true"]),
    },
    rounds,
    signal,
  );
}

async function time(command: readonly string[]): Promise<number> {
  // In another locale the point of EPOCHREALTIME is a comma.
  const env = { ...process.env, LC_ALL: "C" };
  const { stdout } = await promisify(execFile)("bash", ["-c", TIMER, "bash", ...command], { env });
  return Number(stdout) / 1_000;
}
