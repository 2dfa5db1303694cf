import { accessSync, constants, existsSync } from "node:fs";
import { join } from "node:path";

import { say } from "./output.ts";
import { runTool } from "./run_tool.ts";

// A program (or the path of a file) that the tests or the demo need, and the Debian package that brings it.
const PROGRAMS: readonly [program: string, packageName: string][] = [
  ["sshd", "openssh-server"],
  ["ssh", "openssh-client"],
  ["flock", "util-linux"],
  ["lslocks", "util-linux"],
  ["pgrep", "procps"],
  ["socat", "socat"],
  ["busybox", "busybox-static"],
  ["python3", "python3"],
  ["perl", "perl-base"],
  ["mount", "mount"],
  ["prlimit", "util-linux"],
  ["strace", "strace"],
  ["objdump", "binutils"],
  ["aarch64-linux-gnu-objdump", "binutils-aarch64-linux-gnu"],
  ["qemu-aarch64-static", "qemu-user-static"],
  ["shellcheck", "shellcheck"],
  ["dropbear", "dropbear-bin"],
  ["debootstrap", "debootstrap"],
  ["systemd-nspawn", "systemd-container"],
  ["setpriv", "util-linux"],
  ["ip", "iproute2"],
  ["spin", "spin"],
  ["gcc", "gcc"],
  ["/usr/include/stdio.h", "libc6-dev"],
];

// Programs for root are not on a normal user's PATH.
const FOLDERS = [
  ...(process.env["PATH"] ?? "").split(":"),
  "/usr/local/sbin",
  "/usr/sbin",
  "/sbin",
];

/**
 * Installs what the tests need and this machine lacks, when it is Debian's and we are root.
 *
 * Whatever cannot be installed stays missing: the tests that need it are skipped with a reason.
 */
export function installMissingPackages(): void {
  const missing = missingPackages();
  if (missing.length === 0) return;
  if (process.getuid?.() !== 0 || !isProgram("apt-get")) {
    say(`not installed, tests that need it are skipped: ${missing.join(" ")}`);
    return;
  }
  say(`installing ${missing.join(" ")}`);
  const env = { DEBIAN_FRONTEND: "noninteractive" };
  try {
    runTool("apt-get", ["update", "-qq"], env);
    runTool("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...missing], env);
  } catch (error) {
    say(`${error instanceof Error ? error.message : error}`);
    say(`not installed, tests that need it are skipped: ${missingPackages().join(" ")}`);
  }
}

/** The Debian packages of all programs that this machine lacks. */
export function missingPackages(): string[] {
  return [...new Set(PROGRAMS.filter(([program]) => !isProgram(program)).map(([, name]) => name))];
}

function isProgram(name: string): boolean {
  if (name.startsWith("/")) return existsSync(name);
  return FOLDERS.some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
