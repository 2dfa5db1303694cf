/**
 * What logind does at logout: remove a user's lock files, end a user's processes.
 *
 * @module
 */

import { existsSync, lstatSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { lockNameOfFile } from "../../protocol/lock_name.ts";
import { type Finding, found, type Scene } from "./finding.ts";

/** Lowest user id that logind takes for a person's; SYS_UID_MAX of systemd is one less. */
const FIRST_NORMAL_UID = 1_000;

/** The folder that RemoveIPC cleans. */
const POSIX_SHM = "/dev/shm";

const MAIN_FILE = "/etc/systemd/logind.conf";
const DROP_IN_FOLDERS = ["/usr/lib/systemd", "/run/systemd", "/etc/systemd"]
  .map((folder) => `${folder}/logind.conf.d`);

/**
 * Whether lock files and user agents outlive a logout.
 *
 * @param scene What is known of the host.
 */
export function checkLogind({ paths: { lockDir }, uid }: Scene): Finding[] {
  // sd_booted(3)
  if (!existsSync("/run/systemd/system")) {
    return [found("logind", "skip", "logind: systemd does not run here")];
  }
  const settings = parseLogindSettings(readConfiguration());
  return [
    judgeRemoveIpc(settings.RemoveIPC ?? "yes", normalUsersFiles(lockDir), { lockDir, uid }),
    judgeKillUserProcesses(settings.KillUserProcesses, uid),
  ];
}

/**
 * The settings in logind's files; the last one of a name counts.
 *
 * @param texts The files, in the order logind reads them.
 */
export function parseLogindSettings(texts: string[]): Record<string, string | undefined> {
  const settings: Record<string, string | undefined> = {};
  for (const line of texts.join("\n").split("\n")) {
    const match = /^\s*([A-Za-z]+)\s*=\s*(.*?)\s*$/.exec(line);
    if (match !== null) settings[match[1]!] = match[2]! === "" ? undefined : match[2]!;
  }
  return settings;
}

/**
 * What `RemoveIPC` means for the lock files there are.
 *
 * @param value The setting.
 * @param files Lock files that belong to normal users.
 * @param place The lock folder, and the user id of this process.
 */
export function judgeRemoveIpc(
  value: string,
  files: string[],
  { lockDir, uid }: { lockDir: string; uid: number },
): Finding {
  const id = "logind-remove-ipc";
  const isOff = /^(no|false|off|0|n|f)$/i.test(value);
  if (isOff) return found(id, "ok", "logind: RemoveIPC=no, lock files outlive a logout");
  if (lockDir !== POSIX_SHM) {
    return found(id, "ok", `logind: RemoveIPC=yes, which does not reach ${lockDir}`);
  }
  const mend = "RemoveIPC=no in /etc/systemd/logind.conf; or claim through the agent of root";
  if (files.length > 0) {
    const what = `logind: RemoveIPC=yes unlinks ${describeFiles(files)} when its user logs out, ` +
      "and then two sessions hold one lock";
    return found(id, "warn", what, mend);
  }
  if (uid >= FIRST_NORMAL_UID) {
    const what = "logind: RemoveIPC=yes unlinks this user's lock files at logout";
    return found(id, "warn", what, `${mend}; or loginctl enable-linger`);
  }
  return found(id, "ok", "logind: RemoveIPC=yes, and no lock file belongs to a normal user");
}

function judgeKillUserProcesses(value: string | undefined, uid: number): Finding {
  const id = "logind-kill-processes";
  const shown = `KillUserProcesses=${value ?? "unset (no, on most systems)"}`;
  const isOn = /^(yes|true|on|1|y|t)$/i.test(value ?? "no");
  if (isOn && uid >= FIRST_NORMAL_UID) {
    const what = `logind: ${shown} ends this user's agent and holders at logout`;
    return found(id, "warn", what, "loginctl enable-linger");
  }
  const meaning = isOn
    ? "it ends what a session leaves behind, detached work included"
    : "a lock of the shell protocol outlives a dropped connection";
  return found(id, "ok", `logind: ${shown}; ${meaning}`);
}

function describeFiles([first, ...rest]: string[]): string {
  return rest.length === 0 ? first! : `${first} and ${rest.length} more`;
}

function normalUsersFiles(lockDir: string): string[] {
  return list(lockDir).filter((file) => lockNameOfFile(file) !== undefined).filter((file) => {
    try {
      return lstatSync(join(lockDir, file)).uid >= FIRST_NORMAL_UID;
    } catch {
      return false;
    }
  });
}

function readConfiguration(): string[] {
  // Drop-ins are sorted by name whichever folder they lie in, and all come after the main file.
  const dropIns = DROP_IN_FOLDERS
    .flatMap((folder) => list(folder).map((name) => ({ name, path: join(folder, name) })))
    .filter(({ name }) => name.endsWith(".conf"))
    .sort((a, b) => a.name < b.name ? -1 : 1);
  return [MAIN_FILE, ...dropIns.map(({ path }) => path)].map(read);
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
