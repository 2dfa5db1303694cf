/**
 * Every lock file there is: one that claims would refuse is found here first.
 *
 * @module
 */

import { lstatSync, readdirSync, type Stats } from "node:fs";
import { join } from "node:path";
import { LOCK_NAME_RULE, LOCK_PREFIX, lockNameOfFile } from "../../protocol/lock_name.ts";
import { userName } from "../users.ts";
import { type Finding, found, type Scene } from "./finding.ts";

const ID = "lock-file";

/** Findings that are shown one by one; the rest is counted. */
const MAX_SHOWN = 20;

// Removing or replacing the file of a held lock makes two holders.
const REMOVE = "look what it is, then, while nobody holds it: rm";

/**
 * Symlinks, hard links, other things than files, foreign owners, wide modes.
 *
 * @param scene What is known of the host.
 */
export function checkLockFiles({ paths: { lockDir }, uid }: Scene): Finding[] {
  let files: string[];
  try {
    files = readdirSync(lockDir).filter((file) => file.startsWith(LOCK_PREFIX)).sort();
  } catch (error) {
    return [found(ID, "skip", `Lock files cannot be listed: ${(error as Error).message}`)];
  }
  const findings = files.map((file) => judge(join(lockDir, file), file, uid))
    .filter((finding) => finding !== undefined);
  if (findings.length === 0) {
    const count = files.length === 1 ? "1 lock file" : `${files.length} lock files`;
    return [found(ID, "ok", `${count} in ${lockDir}: each safe to open`)];
  }
  const worstFirst = findings.sort((a, b) => a.state < b.state ? -1 : a.state > b.state ? 1 : 0);
  const rest = worstFirst.length - MAX_SHOWN;
  if (rest <= 0) return worstFirst;
  const state = worstFirst[MAX_SHOWN]!.state;
  return [...worstFirst.slice(0, MAX_SHOWN), found(ID, state, `${rest} more files like these`)];
}

function judge(path: string, file: string, uid: number): Finding | undefined {
  let stat: Stats;
  try {
    stat = lstatSync(path);
  } catch {
    return undefined; // gone meanwhile
  }
  if (stat.isSymbolicLink()) return refused(path, "is a symlink");
  if (!stat.isFile()) return refused(path, "is no regular file");
  if (stat.nlink > 1) return refused(path, `has ${stat.nlink} links`);
  if (lockNameOfFile(file) === undefined) {
    const what = `${path} names no lock: a lock name is ${LOCK_NAME_RULE}`;
    return found(ID, "warn", what, `${REMOVE} ${path}`);
  }
  return judgeOwner(path, stat, uid) ?? judgeMode(path, stat);
}

function refused(path: string, state: string): Finding {
  return found(ID, "fail", `${path} ${state}: every claim of it is refused`, `${REMOVE} ${path}`);
}

/** A user's own file is accepted for that user's claims, so an unknown owner blocks everybody. */
function judgeOwner(path: string, { uid: owner }: Stats, uid: number): Finding | undefined {
  if (owner === 0 || owner === uid) return undefined;
  const name = userName(owner);
  if (name === undefined) {
    const what = `${path} belongs to uid ${owner}, which no user has: claims of it are refused`;
    return found(ID, "fail", what, `while nobody holds it: chown root ${path}`);
  }
  const what = `${path} belongs to ${name}: claims of it by other users are refused`;
  return found(ID, "warn", what, `while nobody holds it: chown root ${path}`);
}

function judgeMode(path: string, { mode }: Stats): Finding | undefined {
  const extra = mode & 0o777 & ~0o660;
  if (extra === 0) return undefined;
  const shown = (mode & 0o777).toString(8).padStart(4, "0");
  const who = (extra & 0o007) === 0 ? "its mode is wider than 0660" : "any user can lock it";
  return found(ID, "warn", `${path} has mode ${shown}: ${who}`, `chmod 0660 ${path}`);
}
