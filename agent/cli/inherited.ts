/**
 * What a command would have inherited from whoever started `run`, had `run` not been in between: open
 * descriptors (`run x diff <(a) <(b)`) and ignored signals (nohup(1), a background job of a script).
 *
 * @module
 */

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { constants } from "node:os";
import process from "node:process";

/** Standard input, output and error. */
const STANDARD = 3;

/** The signals that are ever ignored on purpose for a command to come. */
const IGNORABLE = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"] as const;

/** What a command is to inherit beyond what a runtime passes on. */
export interface Inheritance {
  /** Descriptors above stderr. */
  descriptors: number[];
  /** Signals that are to stay ignored. */
  ignored: NodeJS.Signals[];
}

/**
 * Looks what was inherited. To be called before this program opens or handles anything itself.
 *
 * @see proc_pid_status(5)
 */
export function readInheritance(): Inheritance {
  return { descriptors: inheritedDescriptors(), ignored: ignoredSignals() };
}

/**
 * The `stdio` of a command that gets each descriptor under the number it has here.
 *
 * @param inheritance What was inherited.
 */
export function stdioFor({ descriptors }: Inheritance): (number | "inherit" | "ignore")[] {
  // Neither runtime opens anything for an ignored number above stderr.
  return Array.from({ length: Math.max(STANDARD, ...descriptors.map((fd) => fd + 1)) }, (_, fd) => {
    if (fd < STANDARD) return "inherit";
    return descriptors.includes(fd) ? fd : "ignore";
  });
}

/**
 * The command line that starts a command with the signals ignored that are to stay so: a runtime
 * resets them all before it starts a program.
 *
 * @param inheritance What was inherited.
 * @param command The command.
 */
export function commandLineFor({ ignored }: Inheritance, command: string[]): string[] {
  if (ignored.length === 0) return command;
  const names = ignored.map((signal) => signal.slice("SIG".length)).join(" ");
  return ["/bin/sh", "-c", `trap '' ${names}; exec "$@"`, "sh", ...command];
}

/** Deno passes them on by itself; Bun has none of its own open yet that is no `anon_inode`. */
function inheritedDescriptors(): number[] {
  if (!("bun" in process.versions)) return [];
  return listDirectory("/proc/self/fd").map(Number).filter((fd) => {
    const target = fd < STANDARD ? undefined : readTarget(fd);
    return target !== undefined && !target.startsWith("anon_inode:");
  });
}

/** None under Deno, which has reset them all when it comes to this. */
function ignoredSignals(): NodeJS.Signals[] {
  const mask = BigInt(`0x${/^SigIgn:\s*([0-9a-f]+)$/m.exec(readStatus())?.[1] ?? "0"}`);
  return IGNORABLE.filter((signal) => (mask >> BigInt(constants.signals[signal] - 1) & 1n) === 1n);
}

function readStatus(): string {
  try {
    return readFileSync("/proc/self/status", "latin1");
  } catch {
    return "";
  }
}

function listDirectory(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** `undefined` for the one that the folder was read by. */
function readTarget(fd: number): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return undefined;
  }
}
