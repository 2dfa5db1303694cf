/**
 * The token counter: without it no lock is granted.
 *
 * @module
 */

import { accessSync, constants, existsSync, lstatSync, readFileSync, statfsSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Finding, found, type Scene } from "./finding.ts";
import { whyNotWritable } from "./tools.ts";

const ID = "token-counter";

/**
 * Whether the counter can be read, counted on, and written.
 *
 * @param scene What is known of the host.
 */
export function checkTokenCounter({ paths: { stateDir } }: Scene): Finding[] {
  if (!existsSync(stateDir)) return [judgeMissing(stateDir)];
  const stat = lstatSync(stateDir);
  if (!stat.isDirectory()) {
    return [found(ID, "fail", `State folder ${stateDir} is a symlink or no folder`)];
  }
  if ((stat.mode & 0o002) !== 0) {
    const what = `State folder ${stateDir} is writable for everybody: tokens prove nothing`;
    return [found(ID, "fail", what, `chmod 0700 ${stateDir}`)];
  }
  const problem = whyNotWritable(stateDir);
  if (problem?.code === "EROFS") {
    const what = `Token counter: the filesystem of ${stateDir} is read-only`;
    return [found(ID, "fail", what, "remount it rw, or name another --state-dir")];
  }
  const files = [join(stateDir, "token"), join(stateDir, "token-reserved")];
  const isBlocked = problem !== undefined && problem.code !== "ENOSPC";
  const blocked = isBlocked ? stateDir : files.filter(existsSync).find((path) => !isWritable(path));
  if (blocked !== undefined) {
    const what = `Token counter: ${blocked} is not writable for this user`;
    return [found(ID, "fail", what, `chown or chmod ${blocked}, or name another --state-dir`)];
  }
  return [judgeMark(join(stateDir, "token-reserved")) ?? judgeRoom(stateDir)];
}

function judgeMissing(stateDir: string): Finding {
  let parent = dirname(stateDir);
  while (!existsSync(parent)) parent = dirname(parent);
  if (isWritable(parent)) {
    return found(ID, "ok", `Token counter: ${stateDir} will be made at the first start`);
  }
  const what = `Token counter: ${stateDir} is missing and cannot be made in ${parent}`;
  return found(ID, "fail", what, `mkdir -m 0700 ${stateDir} as root, or name another --state-dir`);
}

function judgeMark(path: string): Finding | undefined {
  if (!existsSync(path)) return undefined;
  const text = readFileSync(path, "latin1");
  if (/^\d{1,16}\n$/.test(text)) return undefined;
  const hint = `write a number above every token ever seen, or: date +%s000 > ${path}`;
  return found(ID, "fail", `Token counter: ${path} is damaged, so no lock is granted`, hint);
}

function judgeRoom(stateDir: string): Finding {
  const { bavail, ffree, files } = statfsSync(stateDir);
  if (bavail === 0 || (files > 0 && ffree === 0)) {
    const what = `Token counter: the filesystem of ${stateDir} is full`;
    return found(ID, "fail", what, "free some room: without it no lock is granted");
  }
  return found(ID, "ok", `Token counter in ${stateDir} is readable and writable`);
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
