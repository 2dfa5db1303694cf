import { mkdirSync, readdirSync, readFileSync, rmdirSync } from "node:fs";
import { join } from "node:path";

const PREFIX = "sshlock-host-";

/**
 * Makes a cgroup of a host's own in each hierarchy that systemd uses, so that the systemd of one host
 * never meets the processes of another. Removes those that killed test runs have left.
 *
 * @param id Unique on this machine.
 * @returns Their folders: whoever writes its pid to `cgroup.procs` in each is in them.
 */
export function makeCgroups(id: string): string[] {
  return hierarchies().map((folder) => {
    sweep(folder);
    const path = join(folder, `${PREFIX}${process.pid}-${id}`);
    mkdirSync(path);
    return path;
  });
}

/** Removes cgroups with all below them. The processes in them must be gone. */
export function removeCgroups(folders: readonly string[]): void {
  for (const folder of folders) removeTree(folder);
}

/** The folders of this process's own cgroups. */
function hierarchies(): string[] {
  const mounts = readFileSync("/proc/self/mounts", "utf8").split("\n").map((line) =>
    line.split(" ")
  );
  return readFileSync("/proc/self/cgroup", "utf8").split("\n").flatMap((line) => {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers !== "" && controllers !== "name=systemd") return [];
    const mount = mounts.find(([, , type, options]) =>
      controllers === "" ? type === "cgroup2" : options?.split(",").includes(controllers)
    );
    return mount === undefined ? [] : [join(mount[1]!, path!)];
  });
}

function sweep(folder: string): void {
  for (const name of readdirSync(folder).filter((each) => each.startsWith(PREFIX))) {
    const pid = Number(name.slice(PREFIX.length).split("-")[0]);
    if (!isRunning(pid)) removeTree(join(folder, name));
  }
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** A cgroup that has processes stays: rmdir(2) refuses. */
function removeTree(folder: string): void {
  try {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      if (entry.isDirectory()) removeTree(join(folder, entry.name));
    }
    rmdirSync(folder);
  } catch { /* gone meanwhile, or in use */ }
}
