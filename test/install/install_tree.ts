/**
 * Throw-away root folders that install.sh runs in, so that it does all it does and the machine stays
 * as it is: each run gets a mount namespace, a pid namespace and a chroot of its own.
 */

import { spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { findTool, requires, root } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";

/** How a script in a tree ended. */
export interface RunResult {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Who runs a script in a tree. */
export interface RunOptions {
  /** Default 0. Uid {@link USER_UID} has a home folder, /home/alice. */
  uid?: number;
  /** Added to PATH, HOME and USER, which are always set. */
  env?: Record<string, string>;
}

/** A root folder with what install.sh needs. */
export interface InstallTree extends AsyncDisposable {
  /** Where a path of the tree is for the test. */
  path(inside: string): string;
  /** Runs a script with the tree's own /bin/sh. */
  run(script: string, options?: RunOptions): Promise<RunResult>;
  /** Puts a file into the tree. */
  write(inside: string, text: string | Uint8Array, mode?: number): void;
  /** Every entry with type, mode, owner and size: equal where nothing was changed. */
  snapshot(): string[];
}

/** The kinds of systems that install.sh has to work on. */
export const FLAVOURS = ["busybox-only", "Debian-like"] as const;
export type Flavour = (typeof FLAVOURS)[number];

/** The normal user of every tree, alice; bob has the next uid. */
export const USER_UID = 4242;

/** The folder that install.sh and the binary are unpacked to. */
export const PACKAGE = "/opt/sshlock";

/** The install.sh under test, wherever this file was bundled to. */
export const INSTALL_SH = findUpwards("install.sh");

/** Why trees cannot be made here, or `undefined`. */
export function treeObstacle(): string | undefined {
  const missing = requires(root, "busybox", "dash", "unshare", "chroot", "mount");
  if (missing !== undefined) return missing;
  const probe = spawnSync("unshare", ["--mount", "--pid", "--fork", "true"], { encoding: "utf8" });
  return probe.status === 0 ? undefined : `cannot make namespaces: ${probe.stderr.trim()}`;
}

/** Makes a tree with install.sh and {@link stubAgent} 1.0.0 in {@link PACKAGE}. */
export async function makeTree(flavour: Flavour): Promise<InstallTree> {
  const dir = await makeTempDir("install");
  const base = join(dir.path, "root");
  const path = (inside: string) => join(base, inside);
  const write = (inside: string, text: string | Uint8Array, mode = 0o644) => {
    mkdirSync(dirname(path(inside)), { recursive: true });
    writeFileSync(path(inside), text);
    chmodSync(path(inside), mode);
  };
  chmodSync(dir.path, 0o755);
  for (const folder of FOLDERS) mkdirSync(path(folder), { recursive: true });
  chmodSync(path("/tmp"), 0o1777);
  const binds = flavour === "Debian-like" ? fillDebianLike(path) : fillBusyboxOnly(path, write);
  addUsers(path);
  copyFileSync(INSTALL_SH, path(`${PACKAGE}/install.sh`));
  chmodSync(path(`${PACKAGE}/install.sh`), 0o755);
  write(`${PACKAGE}/dist/sshlock-agent`, stubAgent("1.0.0"), 0o755);
  // What the stub hands out as the holder: a program that runs under any argv[0].
  copyFileSync(findTool("dash") as string, path("/opt/holder-image"));
  return {
    path,
    write,
    run: (script, options = {}) => runInside(base, binds, script, options),
    snapshot: () => listEntries(base, binds).sort(),
    [Symbol.asyncDispose]: () => dir.remove(),
  };
}

/** An agent with the subcommands that install.sh calls; doctor's exit code is in /opt/doctor-status. */
export function stubAgent(version: string): string {
  return `#!/bin/sh
case $1 in
  version) echo "sshlock-agent ${version}" ;;
  doctor) echo "doctor ran"; exit "$(cat /opt/doctor-status 2>/dev/null || echo 0)" ;;
  holder) cat /opt/holder-image >"$3" ;;
  serve) [ "$2 $3" = "--check-config --config" ] && ! grep wrong "$4" ;;
  *) exit 125 ;;
esac
`;
}

/** Puts a systemctl into the tree that writes what it is told to do to /opt/systemctl.log; the units are active where /opt/active is. */
export function pretendSystemd(tree: InstallTree): void {
  mkdirSync(tree.path("/run/systemd/system"), { recursive: true });
  const script = `#!/bin/sh
case $* in
  *is-active*) [ -e /opt/active ] ;;
  *) echo "$*" >>/opt/systemctl.log ;;
esac
`;
  tree.write("/opt/tools/systemctl", script, 0o755);
  tree.write("/opt/systemctl.log", "", 0o666);
}

/** The calls to systemctl since the last time. */
export function takeSystemctlCalls(tree: InstallTree): string[] {
  const calls = readFileSync(tree.path("/opt/systemctl.log"), "utf8").split("\n").slice(0, -1);
  tree.write("/opt/systemctl.log", "", 0o666);
  return calls;
}

/** Makes a program and the libraries it is linked with run inside the tree. */
export function copyWithLibraries(tree: InstallTree, from: string, inside: string): void {
  mkdirSync(dirname(tree.path(inside)), { recursive: true });
  copyFileSync(from, tree.path(inside));
  chmodSync(tree.path(inside), 0o755);
  copyLibraries(from, tree.path);
}

const FOLDERS = [
  "/dev",
  "/etc",
  "/home",
  "/opt/tools",
  PACKAGE,
  "/proc",
  "/root",
  "/run",
  "/tmp",
  "/usr/local/bin",
  "/usr/local/lib",
  "/usr/sbin",
  "/var/lib",
];

/** The system's own programs, read-only; all else is the tree's own. Returns what is bind-mounted. */
function fillDebianLike(path: (inside: string) => string): string[] {
  const filter = (source: string) => !source.includes("/sshlock-agent.");
  cpSync("/etc", path("/etc"), { recursive: true, verbatimSymlinks: true, filter });
  for (const file of ["/etc/passwd", "/etc/group", "/etc/gshadow"]) forgetNames(path(file));
  for (const name of ["bin", "sbin", "lib", "lib64"]) {
    if (existsSync(`/${name}`)) symlinkSync(`usr/${name}`, path(`/${name}`));
  }
  const folders = readdirSync("/usr", { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && entry.name !== "local" && entry.name !== "src")
    .map((entry) => `/usr/${entry.name}`);
  for (const folder of folders) mkdirSync(path(folder), { recursive: true });
  return folders;
}

/** The machine may have sshlock installed, and users of the same names. */
function forgetNames(file: string): void {
  if (!existsSync(file)) return;
  const text = readFileSync(file, "utf8");
  writeFileSync(file, text.replace(/^(sshlock|alice|bob|carol):.*\n/gm, ""));
}

/** One static busybox and nothing else, as Alpine has it. */
function fillBusyboxOnly(
  path: (inside: string) => string,
  write: (inside: string, text: string, mode?: number) => void,
): string[] {
  mkdirSync(path("/bin"), { recursive: true });
  copyFileSync(findTool("busybox") as string, path("/bin/busybox"));
  chmodSync(path("/bin/busybox"), 0o755);
  const { stdout } = spawnSync(path("/bin/busybox"), ["--list"], { encoding: "utf8" });
  for (const applet of stdout.split("\n").filter((name) => name !== "" && name !== "busybox")) {
    symlinkSync("busybox", path(`/bin/${applet}`));
  }
  // Alpine's busybox has these applets, Debian's leaves them out.
  write("/usr/sbin/addgroup", ADDGROUP, 0o755);
  write("/usr/sbin/delgroup", DELGROUP, 0o755);
  write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
  write("/etc/group", "root:x:0:\n");
  copyLibraries(findTool("dash") as string, path);
  return [];
}

const ADDGROUP = `#!/bin/sh
[ "$1" != -S ] || { echo "$2:x:101:" >>/etc/group; exit; }
sed "s/^\\($2:.*:\\)$/\\1$1/; t; s/^\\($2:.*\\)$/\\1,$1/" /etc/group >/etc/group.new
mv /etc/group.new /etc/group
`;

const DELGROUP = `#!/bin/sh
grep -v "^$1:" /etc/group >/etc/group.new
mv /etc/group.new /etc/group
`;

function addUsers(path: (inside: string) => string): void {
  ["alice", "bob"].forEach((name, index) => {
    const id = USER_UID + index;
    append(path("/etc/passwd"), `${name}:x:${id}:${id}::/home/${name}:/bin/sh\n`);
    append(path("/etc/group"), `${name}:x:${id}:\n`);
    mkdirSync(path(`/home/${name}`));
    spawnSync("chown", [`${id}:${id}`, path(`/home/${name}`)]);
  });
}

function append(file: string, line: string): void {
  writeFileSync(file, line, { flag: "a" });
}

function copyLibraries(program: string, path: (inside: string) => string): void {
  const { stdout } = spawnSync("ldd", [program], { encoding: "utf8" });
  for (const [library] of stdout.matchAll(/\/[^ ]+\.so[^ ]*/g)) {
    if (existsSync(path(library))) continue;
    mkdirSync(dirname(path(library)), { recursive: true });
    copyFileSync(library, path(library));
    chmodSync(path(library), 0o755);
  }
}

/** The first two arguments are the root and the user; then the folders to bind; then the script. */
const ENTER = `set -e
base=$1 user=$2 script=$3
shift 3
for folder; do
  mount --bind "$folder" "$base$folder"
  mount -o remount,bind,ro "$base$folder"
done
mount -t proc proc "$base/proc"
mount -t tmpfs dev "$base/dev"
mkdir -m 1777 "$base/dev/shm"
mount -t tmpfs shm "$base/dev/shm"
for node in null zero urandom; do
  : >"$base/dev/$node"
  mount --bind "/dev/$node" "$base/dev/$node"
done
exec chroot --userspec="$user:$user" --groups= "$base" /bin/sh -c "cd /; $script"
`;

function runInside(
  base: string,
  binds: string[],
  script: string,
  { uid = 0, env = {} }: RunOptions,
): Promise<RunResult> {
  const namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"];
  const args = [
    ...namespaces,
    "/bin/sh",
    "-c",
    ENTER,
    "enter",
    base,
    String(uid),
    script,
    ...binds,
  ];
  const home = uid === 0 ? "/root" : "/home/alice";
  const child = spawn("unshare", args, {
    env: { PATH: TREE_PATH, HOME: home, USER: uid === 0 ? "root" : "alice", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const result: RunResult = { code: null, stdout: "", stderr: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => result.stdout += text);
  child.stderr.setEncoding("utf8").on("data", (text: string) => result.stderr += text);
  return new Promise((done, fail) => {
    child.once("error", fail);
    child.once("close", (code) => done({ ...result, code }));
  });
}

const TREE_PATH = "/opt/tools:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** groupadd(8) keeps the previous version of its files; mount(8) and pretendSystemd() have their own. */
const NOT_OURS = /^\/(etc\/(.*-|\.pwd\.lock)|run\/mount|opt\/systemctl\.log)$/;

function listEntries(base: string, binds: string[], inside = ""): string[] {
  return readdirSync(join(base, inside)).flatMap((name) => {
    const entry = `${inside}/${name}`;
    if (binds.includes(entry) || NOT_OURS.test(entry)) return [];
    const stat = lstatSync(join(base, entry));
    const facts = stat.isDirectory() ? "" : ` ${stat.size}`;
    const line = `${entry} ${stat.mode.toString(8)} ${stat.uid}:${stat.gid}${facts}`;
    return stat.isDirectory() ? [line, ...listEntries(base, binds, entry)] : [line];
  });
}

function findUpwards(name: string): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, name)) && folder !== "/") folder = dirname(folder);
  return resolve(folder, name);
}
