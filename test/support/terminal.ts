import { spawn } from "node:child_process";
import { childExit } from "./child.ts";
import { until } from "./events.ts";
import { descendants } from "./processes.ts";

const PTY = "import pty, sys; pty.spawn(sys.argv[1:])";
const SHELL = ["bash", "--norc", "--noprofile", "-i"];

/** An interactive bash with a terminal of its own. */
export interface Shell extends AsyncDisposable {
  readonly pid: number;
  /** Types text; `\x03` is ^C, `\x1a` is ^Z. */
  type(keys: string): void;
  /** Waits for text that comes after what was waited for last. */
  shows(pattern: RegExp): Promise<void>;
}

/**
 * Starts an interactive shell at a terminal, and waits for its prompt, `ready> `.
 *
 * @param env Added to the environment.
 */
export async function startShell(env: NodeJS.ProcessEnv = {}): Promise<Shell> {
  const child = spawn("python3", ["-c", PTY, ...SHELL], {
    env: { ...process.env, TERM: "dumb", HISTFILE: "", ...env },
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exit = childExit(child);
  let text = "";
  let seen = 0;
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => text += chunk);
  child.stdin.on("error", () => {});
  const shell: Shell = {
    pid: child.pid as number,
    type: (keys) => void child.stdin.write(keys),
    async shows(pattern) {
      await until(() => {
        const match = pattern.exec(text.slice(seen));
        if (match === null) return false;
        seen += match.index + match[0].length;
        return true;
      }, { what: `${pattern} on the terminal`, deadlineMs: 30_000 }).catch((error: Error) => {
        throw new Error(`${error.message}; it shows: ${JSON.stringify(text.slice(seen))}`);
      });
    },
    async [Symbol.asyncDispose]() {
      for (const { pid } of [...descendants(child.pid as number)].reverse()) kill(pid);
      child.kill("SIGKILL");
      await exit;
    },
  };
  // Not all of it in one piece: what is typed is shown as well.
  shell.type("PS1=re''ady'> '\n");
  await shell.shows(/ready> /);
  return shell;
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended meanwhile.
  }
}
