import { spawn } from "node:child_process";
import { join } from "node:path";
import { type ChildExit, childExit, eachLine } from "./child.ts";
import { killAndConfirm } from "./processes.ts";

/** How a claim by the shell protocol went. */
export type ShellOutcome =
  | { kind: "locked"; lock: ShellLock }
  /** Exit code 124: another session has it. `text` is what the shell said. */
  | { kind: "contended"; exitCode: 124; text: string }
  /** Exit code 92: the lock file could not be created. */
  | { kind: "no-file"; exitCode: 92; text: string };

/** A lock that the shell protocol has. */
export interface ShellLock extends AsyncDisposable {
  /** The shell, which has fd 999 as well. It ends when its standard input does. */
  readonly shellPid: number;
  /** The `sleep infinity` that is named session-lock-NAME. It outlives its shell. */
  readonly holderPid: number;
  readonly exit: Promise<ChildExit>;
  /** Ends the shell alone, as a dropped connection does: the holder keeps the lock. */
  endShell(): Promise<void>;
  /** Ends the holder and the shell, each by pid; the lock is free then. */
  end(): Promise<void>;
}

/** The path of a lock's file. */
export function lockPath(lockDir: string, name: string): string {
  return join(lockDir, `session-lock-${name}`);
}

/**
 * The shell protocol, word for word, for bash. It ends with 92 or 124, or goes on with the lock held and the holder's pid in `$!`.
 * Neither argument may contain a character that is special to a shell.
 */
export function shellProtocol(lockDir: string, name: string): string {
  return [
    `exec 999>${lockPath(lockDir, name)} || exit 92`,
    `flock -xn 999 || { echo "Another session active: " ${name}; exit 124; }`,
    `exec -a session-lock-${name} sleep infinity </dev/null >/dev/null 2>&1 &`,
    "disown",
  ].join("\n");
}

/**
 * Claims a lock by the shell protocol in a bash of its own, and keeps that shell until told to end.
 *
 * @throws {Error} The shell ended with another code than 92 or 124.
 */
export async function shellLock(lockDir: string, name: string): Promise<ShellOutcome> {
  const script = `${shellProtocol(lockDir, name)}\necho "locked $!"\nread -r _\nexit 0\n`;
  const child = spawn("bash", ["-c", script], { stdio: "pipe" });
  const exit = childExit(child);
  child.stdin.on("error", () => {}); // EPIPE once it has ended
  let text = "";
  eachLine(child.stderr, (line) => text += `${line}\n`);
  const locked = new Promise<number>((resolve) => {
    eachLine(child.stdout, (line) => {
      const pid = /^locked (\d+)$/.exec(line)?.[1];
      if (pid === undefined) text += `${line}\n`;
      else resolve(Number(pid));
    });
  });
  const closed = new Promise((resolve) => child.once("close", resolve));
  const first = await Promise.race([locked, exit]);
  if (typeof first !== "number") {
    await closed;
    if (first.code === 124) return { kind: "contended", exitCode: 124, text };
    if (first.code === 92) return { kind: "no-file", exitCode: 92, text };
    throw new Error(`The shell protocol ended with ${first.code ?? first.signal}: ${text.trim()}`);
  }
  return {
    kind: "locked",
    lock: shellLockOf(child.pid as number, first, exit, () => child.stdin.end()),
  };
}

function shellLockOf(
  shellPid: number,
  holderPid: number,
  exit: Promise<ChildExit>,
  endInput: () => void,
): ShellLock {
  const endShell = async () => {
    endInput();
    await exit;
  };
  const end = async () => {
    await killAndConfirm(holderPid);
    await endShell();
  };
  return { shellPid, holderPid, exit, endShell, end, [Symbol.asyncDispose]: end };
}
