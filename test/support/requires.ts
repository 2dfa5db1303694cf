import { accessSync, constants, existsSync, statSync } from "node:fs";
import { delimiter, join } from "node:path";

/** Asks for root. Anything else given to {@link requires} is the name of a tool or the path of a file. */
export const root = "root";

/**
 * Says why a test cannot run here, for `test(name, { skip: requires("sshd", "root") }, …)`.
 *
 * @param needs "root", the name of a tool ("sshd", "lslocks"), or a path that has to exist ("dist/sshlock-agent").
 * @returns The first thing that is missing, or `undefined` when nothing is.
 */
export function requires(...needs: string[]): string | undefined {
  for (const need of needs) {
    if (need === root) {
      if (process.getuid?.() !== 0) return "needs root";
    } else if (need.includes("/")) {
      if (!existsSync(need)) return `needs ${need}, which does not exist`;
    } else if (findTool(need) === undefined) {
      return `needs ${need}, which is not installed`;
    }
  }
  return undefined;
}

/**
 * Finds a tool's absolute path in PATH and in the system folders that a normal user's PATH lacks.
 * sshd has to be started by its absolute path: it executes itself again for each connection.
 */
export function findTool(name: string): string | undefined {
  const folders = [
    ...(process.env.PATH ?? "").split(delimiter),
    "/usr/sbin",
    "/sbin",
    "/usr/local/sbin",
  ];
  return folders.filter((folder) => folder.startsWith("/")).map((folder) => join(folder, name))
    .find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
