import { existsSync, rmSync, writeFileSync } from "node:fs";

import { say } from "../build/output.ts";
import { runTool } from "../build/run_tool.ts";
import { findTool } from "../test/support/requires.ts";

/** What the demo starts beside our own programs, and the Debian package that brings it. */
const PROGRAMS: readonly [program: string, packageName: string][] = [
  ["sshd", "openssh-server"],
  ["ssh", "openssh-client"],
  ["ssh-keygen", "openssh-client"],
  ["bash", "bash"],
  ["flock", "util-linux"],
  ["lslocks", "util-linux"],
  ["pgrep", "procps"],
];

/** Debian's way to keep a package's service from being started when it is installed. */
const POLICY = "/usr/sbin/policy-rc.d";

/** A program is missing and cannot be had here; the message says what to do. */
export class ProgramMissingError extends Error {
  override name = "ProgramMissingError";
}

/**
 * Installs what is missing, where that can be done.
 *
 * @throws {ProgramMissingError} It cannot.
 */
export function installPrograms(): void {
  const missing = missingPrograms();
  if (missing.length === 0) return;
  const packages = [...new Set(missing.map(([, name]) => name))].join(" ");
  const names = missing.map(([program]) => program).join(", ");
  const command = `apt-get update && apt-get install -y ${packages}`;
  if (process.getuid?.() !== 0 || findTool("apt-get") === undefined) {
    const hint = findTool("apt-get") === undefined
      ? `install ${names} with this system's package manager`
      : `as root: ${command}`;
    throw new ProgramMissingError(`Cannot show the demo: ${names} not installed\nHint: ${hint}`);
  }
  say(`installing ${packages}`);
  try {
    install(packages.split(" "));
  } catch (cause) {
    const said = (cause as Error).message.trim().split("\n").slice(-3).join("\n");
    throw new ProgramMissingError(
      `Cannot show the demo: ${names} not installed, and apt-get failed:\n${said}\n` +
        `Hint: ${command}`,
    );
  }
  const left = missingPrograms().map(([program]) => program).join(", ");
  if (left !== "") {
    throw new ProgramMissingError(
      `Cannot show the demo: ${left} still not there after ${command}`,
    );
  }
}

function missingPrograms(): [string, string][] {
  return PROGRAMS.filter(([program]) => findTool(program) === undefined)
    .map(([program, name]) => [program, name]);
}

/** Without starting the new sshd on port 22: the demo has one of its own, and nobody asked for that one. */
function install(packages: string[]): void {
  const env = { DEBIAN_FRONTEND: "noninteractive" };
  const isOurs = !existsSync(POLICY);
  if (isOurs) writeFileSync(POLICY, "#!/bin/sh\nexit 101\n", { mode: 0o755 });
  try {
    runTool("apt-get", ["update", "-qq"], env);
    runTool("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...packages], env);
  } finally {
    if (isOurs) rmSync(POLICY, { force: true });
  }
}
