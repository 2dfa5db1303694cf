import { spawn } from "node:child_process";
import { type ChildExit, childExit, eachLine } from "./child.ts";

/** A flock(1) that has the lock, or was refused because another open file description has it. */
export type FlockOutcome =
  | { kind: "held"; holder: FlockHolder }
  | { kind: "contended" };

/** A process flock(1) that has a file locked. */
export interface FlockHolder extends AsyncDisposable {
  /** The process that owns the lock (it keeps the descriptor from its own child). */
  readonly pid: number;
  readonly exit: Promise<ChildExit>;
  /** Lets flock(1) end by itself and waits for it; the lock is free then. */
  end(): Promise<void>;
}

/** How to lock. */
export interface FlockOptions {
  shared?: boolean;
  /** Milliseconds to wait for the lock; 0, unless told: do not wait. */
  waitMs?: number;
}

/** Ours, so that it cannot be taken for a failure of flock(1) itself. */
const contendedCode = 124;

/**
 * Locks a file with flock(1) and reports when that is done. The file is created when it is missing.
 *
 * The child of flock(1) waits for the end of its standard input, so the lock is released when this process dies.
 *
 * @throws {Error} flock(1) failed in another way; the message has its standard error.
 * @see flock(1)
 */
export async function flock(path: string, options: FlockOptions = {}): Promise<FlockOutcome> {
  const waitMs = options.waitMs ?? 0;
  const child = spawn("flock", [
    options.shared === true ? "--shared" : "--exclusive",
    ...(waitMs > 0 ? ["--timeout", String(waitMs / 1000)] : ["--nonblock"]),
    ...["--conflict-exit-code", String(contendedCode), "--close", path],
    ...["sh", "-c", "echo held; exec cat"],
  ], { stdio: "pipe" });
  const exit = childExit(child);
  child.stdin.on("error", () => {}); // EPIPE once it has ended
  let stderr = "";
  eachLine(child.stderr, (line) => stderr += `${line}\n`);
  const held = new Promise<"held">((resolve) => eachLine(child.stdout, () => resolve("held")));
  const first = await Promise.race([held, exit]);
  if (first !== "held") {
    if (first.code === contendedCode) return { kind: "contended" };
    throw new Error(`flock ${path} ended with ${first.code ?? first.signal}: ${stderr.trim()}`);
  }
  const end = async () => {
    child.stdin.end();
    await exit;
  };
  return {
    kind: "held",
    holder: { pid: child.pid as number, exit, end, [Symbol.asyncDispose]: end },
  };
}
