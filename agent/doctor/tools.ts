/**
 * Other programs of the host, for checks that have to see them work.
 *
 * @module
 */

import { execFile } from "node:child_process";
import { accessSync, constants, mkdtempSync, rmdirSync, statSync } from "node:fs";
import { delimiter, join } from "node:path";
import process from "node:process";

/** Time a program has before it is ended and counts as failed, in milliseconds. */
const TOOL_LIMIT_MS = 1_000;

// The PATH of a normal user often lacks the folders of sshd.
const SYSTEM_FOLDERS = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/** How a program ended. */
export interface ToolEnd {
  /** Exit code; `undefined` when it could not be started or was ended. */
  code: number | undefined;
  /** What it wrote to stdout. */
  stdout: string;
  /** What it wrote to stderr, or why it could not be started. */
  stderr: string;
}

/**
 * The path of a program, or `undefined` where the host has none.
 *
 * @param name The program.
 */
export function findTool(name: string): string | undefined {
  const folders = [...(process.env.PATH ?? "").split(delimiter), ...SYSTEM_FOLDERS];
  return folders.filter((folder) => folder.startsWith("/"))
    .map((folder) => join(folder, name))
    .find(isExecutable);
}

/**
 * Runs a program to its end, with nothing on stdin and for a second at most.
 *
 * @param program Its path.
 * @param args Its arguments.
 * @param argv0 What it is to see as its own name; default: the path.
 */
export function runTool(program: string, args: string[], argv0?: string): Promise<ToolEnd> {
  // execFile passes argv0 on to spawn, though its types do not say so.
  const options = { timeout: TOOL_LIMIT_MS, killSignal: "SIGKILL", argv0 } as const;
  return new Promise((resolve) => {
    const child = execFile(program, args, options, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === "number" ? error.code : undefined;
      resolve({ code, stdout, stderr: stderr || (error?.message ?? "") });
    });
    child.stdin?.on("error", () => {/* it did not want any */});
    child.stdin?.end();
  });
}

/**
 * The last line that a program wrote to stderr, without its newline.
 *
 * @param end How it ended.
 */
export function lastWords(end: ToolEnd): string {
  return end.stderr.trim().split("\n").at(-1)!;
}

/**
 * Why nothing can be made in a folder, or `undefined` where it can: a folder is made and removed,
 * because access(2) is not what every runtime asks, and permissions are not all that can be wrong.
 *
 * @param folder The folder.
 */
export function whyNotWritable(folder: string): NodeJS.ErrnoException | undefined {
  try {
    rmdirSync(mkdtempSync(join(folder, "sshlock-doctor-")));
    return undefined;
  } catch (error) {
    return error as NodeJS.ErrnoException;
  }
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
