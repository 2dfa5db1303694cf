/**
 * What the shell protocol needs of a host: bash, flock(1), and a sleep(1) that bears another name.
 *
 * A host without them has working locks through the agent; sessions that come without it do not.
 *
 * @module
 */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Finding, found, type Scene } from "./finding.ts";
import { findTool, lastWords, runTool } from "./tools.ts";

/** Login shells that let nobody in. */
const NO_SHELLS = ["nologin", "false"];

/**
 * Runs each step of the shell protocol for itself, in a folder of its own.
 *
 * @param scene What is known of the host.
 */
export function checkShellTools({ uid }: Scene): Promise<Finding[]> {
  return Promise.all([checkBash(), checkFlock(), checkSleep(), checkLoginShell(uid)]);
}

async function checkBash(): Promise<Finding> {
  const id = "bash";
  const bash = findTool("bash");
  if (bash === undefined) {
    const what = "bash is missing: the shell protocol cannot be used here";
    return found(id, "warn", what, "install bash; the agent does without it");
  }
  const end = await runTool(bash, ["-c", "exec 999>/dev/null"]);
  if (end.code === 0) return found(id, "ok", `${bash} opens descriptor 999`);
  const what = `${bash} cannot open descriptor 999: ${lastWords(end)}`;
  return found(id, "warn", what, "raise the limit of open files: ulimit -n 4096");
}

async function checkFlock(): Promise<Finding> {
  const id = "flock";
  const flock = findTool("flock");
  if (flock === undefined) {
    const what = "flock(1) is missing: the shell protocol exits 124 here as if a lock was held";
    return found(id, "warn", what, "install util-linux");
  }
  const folder = mkdtempSync(join(tmpdir(), "sshlock-doctor-"));
  try {
    const end = await runTool(flock, ["-xn", join(folder, "probe"), "true"]);
    if (end.code === 0) return found(id, "ok", `${flock} locks a file`);
    const what = `${flock} cannot lock a file (exit ${end.code}): ${lastWords(end)}`;
    return found(id, "warn", what, "install flock of util-linux");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** uutils and busybox choose what to be by argv[0], so a renamed one ends at once, and with it the lock. */
async function checkSleep(): Promise<Finding> {
  const id = "sleep";
  const sleep = findTool("sleep");
  if (sleep === undefined) {
    const what = "sleep(1) is missing: a lock of the shell protocol ends at once";
    return found(id, "warn", what, "install coreutils");
  }
  const end = await runTool(sleep, ["0"], "sshlock-doctor");
  if (end.code === 0) return found(id, "ok", `${sleep} works under another name`);
  const what = `${sleep} does not work under another name (uutils or busybox): ` +
    "a lock of the shell protocol ends at once";
  return found(id, "warn", what, "install GNU coreutils");
}

/** sshd runs commands by the login shell; dash takes no descriptor above 9 in a redirection. */
async function checkLoginShell(uid: number): Promise<Finding> {
  const id = "login-shell";
  const [user, shell] = readLogin(uid);
  const whose = `Login shell of ${user}, ${shell},`;
  if (shell === undefined) return found(id, "skip", `${user} is not in /etc/passwd`);
  if (NO_SHELLS.some((name) => shell.endsWith(`/${name}`))) {
    return found(id, "skip", `${whose} lets nobody in`);
  }
  const end = await runTool(shell, ["-c", "exec 999>/dev/null"]);
  if (end.code === 0) return found(id, "ok", `${whose} opens descriptor 999`);
  const what = `${whose} cannot open descriptor 999: the shell protocol fails in it`;
  return found(id, "warn", what, `chsh -s /bin/bash ${user}, or start bash explicitly`);
}

function readLogin(uid: number): [user: string, shell: string | undefined] {
  const lines = readFileSync("/etc/passwd", "utf8").split("\n").map((line) => line.split(":"));
  const fields = lines.find((line) => line[2] === String(uid));
  // passwd(5): an empty shell is /bin/sh.
  return fields === undefined ? [`uid ${uid}`, undefined] : [fields[0]!, fields[6] || "/bin/sh"];
}
