/**
 * Hosts that boot systemd with logind, PAM and sshd in a container: a throw-away overlay on the base
 * root, in namespaces of its own, that ends with the test process whichever way that ends.
 */

import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect as connectTcp } from "node:net";
import { dirname, join, resolve } from "node:path";
import type { Target } from "../../../controller/mod.ts";
import { childExit } from "../../support/child.ts";
import { until } from "../../support/events.ts";
import { descendants, isAlive, signalPid } from "../../support/processes.ts";
import { requires, root } from "../../support/requires.ts";
import { makeTempDir, type TempDir } from "../../support/temp_dir.ts";
import { baseRoot, NoBaseRootError } from "./base_root.ts";
import { makeCgroups, removeCgroups } from "./cgroup.ts";
import { connectNamespace } from "./host_network.ts";
import { makeUserKey, type UserKey } from "./user_key.ts";

/** How a script on a host ended. */
export interface ScriptEnd {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** What a host is booted with. */
export interface HostOptions {
  /** Files to put there before it boots: path and content. */
  files?: Record<string, string>;
  /**
   * Whether pidfd_getfd(2) works there, as on a machine; default `true`. systemd-nspawn filters it out
   * unless told.
   */
  copiesDescriptors?: boolean;
}

/** A host that has booted. */
export interface BootedHost extends AsyncDisposable {
  /** Its address, on a network that only this machine is on. */
  readonly address: string;
  /** Its process 1, as this machine numbers it. */
  readonly leader: number;
  /** The private key that every user there accepts, and the file that it is in. */
  readonly key: UserKey;
  /** Where to log in, for the library. */
  target(user: string): Target;
  /** Arguments for ssh(1) up to and including the destination. */
  sshArgs(user: string): string[];
  /** Runs a script there as root, outside of any login session. */
  exec(script: string): Promise<ScriptEnd>;
  /** The same, and fails unless it exits with 0. @returns What it printed, without the last newline. */
  sh(script: string): Promise<string>;
  /** Where a path of the host is for the test. */
  path(inside: string): string;
  /** The pid that a process of the host has here, by the pid that it has there. */
  outerPid(pid: number): number | undefined;
}

/** The folder of the host that install.sh and the binary lie in. */
export const PACKAGE = "/opt/sshlock";

// Enough for a loaded machine; a boot takes some three seconds.
const BOOT_LIMIT_MS = 90_000;

const BOOT = `set -e
for folder in $CGROUPS; do echo $$ >"$folder/cgroup.procs"; done
mount -t tmpfs -o mode=0755,size=2g tmpfs "$DIR/fs"
mkdir "$DIR/fs/upper" "$DIR/fs/work" "$DIR/fs/root"
mount -t overlay -o "lowerdir=$BASE,upperdir=$DIR/fs/upper,workdir=$DIR/fs/work" \\
  overlay "$DIR/fs/root"
umask 022
cp -r "$DIR/files/." "$DIR/fs/root/"
exec systemd-nspawn --quiet --boot --directory="$DIR/fs/root" --machine="$NAME" --uuid="$UUID" \\
  --register=no --keep-unit --private-network --resolv-conf=off --timezone=off $OPTIONS \\
  --bind-ro="$REPOSITORY/install.sh:${PACKAGE}/install.sh" \\
  --bind-ro="$REPOSITORY/dist/sshlock-agent:${PACKAGE}/dist/sshlock-agent"
`;

/**
 * The pid namespace ends with unshare(1), and unshare with the test: systemd-nspawn alone would leave
 * its container behind when it is killed.
 */
const CAGE = [
  ...["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"],
  "--mount-proc",
];

let obstacle: Promise<string | undefined> | undefined;

/** Why no host can be booted here, or `undefined`. Makes the base root where there is none. */
export function whyNoHosts(): Promise<string | undefined> {
  return obstacle ??= findObstacle();
}

async function findObstacle(): Promise<string | undefined> {
  const missing = requires(root, ...TOOLS, "dist/sshlock-agent");
  if (missing !== undefined) return missing;
  const device = `slh${process.pid}p`;
  const veth = spawnSync("unshare", ["--net", "ip", "link", "add", device, "type", "veth"]);
  if (veth.status !== 0) return `cannot make a network of its own: ${veth.stderr}`.trim();
  try {
    const base = await baseRoot();
    return whyNoContainer(base);
  } catch (error) {
    if (error instanceof NoBaseRootError) return error.message;
    throw error;
  }
}

const TOOLS = [
  "debootstrap",
  "systemd-nspawn",
  "unshare",
  "nsenter",
  "setpriv",
  "ip",
  "ssh-keygen",
  "ssh",
];

/** All that a boot needs of the kernel, with /bin/true in the place of systemd. */
function whyNoContainer(base: string): string | undefined {
  const script = `set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$0,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
exec systemd-nspawn --quiet --directory=/mnt/root --machine=sshlock-probe-$$ --register=no \\
  --keep-unit --private-network --resolv-conf=off --timezone=off /bin/true`;
  const args = ["--mount", "sh", "-c", script, base];
  const { status, stderr } = spawnSync("unshare", args, { encoding: "utf8", timeout: 60_000 });
  return status === 0 ? undefined : `cannot start a container: ${stderr?.trim() || status}`;
}

/**
 * Boots a host and waits until users can log in.
 *
 * @throws {Error} It did not come up; the message has the last lines of its console.
 */
export async function bootHost(options: HostOptions = {}): Promise<BootedHost> {
  const base = await baseRoot();
  const dir = await makeTempDir("host");
  const id = dir.path.slice(-6);
  const key = makeUserKey(dir.path);
  stageFiles(join(dir.path, "files"), { ...standardFiles(key), ...options.files });
  mkdirSync(join(dir.path, "fs"));
  const cgroups = makeCgroups(id);
  const child = spawn("setpriv", [...CAGE, "sh", "-c", BOOT], {
    env: {
      PATH: "/usr/sbin:/usr/bin:/sbin:/bin",
      BASE: base,
      CGROUPS: cgroups.join(" "),
      DIR: dir.path,
      OPTIONS: options.copiesDescriptors === false ? "" : "--system-call-filter=pidfd_getfd",
      NAME: `sshlock-${process.pid}-${id.replace(/[^A-Za-z0-9]/g, "0")}`,
      REPOSITORY: resolve("."),
      UUID: randomUUID(),
      // The layout of today's systems, whatever this machine has.
      UNIFIED_CGROUP_HIERARCHY: "1",
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const console = new Console(child);
  const stop = once(() => endHost(child, cgroups, dir));
  try {
    const leader = await untilBooting(child);
    const address = connectNamespace(leader);
    await untilLoginsWork(child, leader, address);
    return hostAt({ leader, address, key, base, dir, stop });
  } catch (error) {
    await stop();
    throw new Error(`${(error as Error).message}; its console:\n${console.text}`, { cause: error });
  }
}

/** The last of what a host prints while it boots. */
class Console {
  text = "";

  constructor(child: ChildProcess) {
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        this.text = (this.text + text).slice(-4_000);
      });
    }
  }
}

function standardFiles(key: UserKey): Record<string, string> {
  return {
    "/etc/hostname": "testhost\n",
    "/etc/ssh/test_keys": key.publicKey,
    "/etc/ssh/sshd_config.d/test.conf": [
      "AuthorizedKeysFile /etc/ssh/test_keys",
      "PasswordAuthentication no",
      "PermitRootLogin prohibit-password",
      "MaxStartups 1000",
      "UseDNS no",
      "",
    ].join("\n"),
    // At logout logind waits ten seconds for the user to come back before it cleans up.
    "/etc/systemd/logind.conf.d/test.conf": "[Login]\nUserStopDelaySec=0\n",
  };
}

function stageFiles(folder: string, files: Record<string, string>): void {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
    chmodSync(join(folder, path), text.startsWith("#!") ? 0o755 : 0o644);
  }
}

/** @returns The container's process 1, once it is systemd. */
async function untilBooting(child: ChildProcess): Promise<number> {
  return await until(() => {
    failIfEnded(child);
    return descendants(child.pid!).find(({ pid, comm }) =>
      comm === "systemd" && innerPid(pid) === 1
    )?.pid;
  }, { deadlineMs: BOOT_LIMIT_MS, what: "the host's systemd", intervalMs: 20 });
}

async function untilLoginsWork(
  child: ChildProcess,
  leader: number,
  address: string,
): Promise<void> {
  await until(async () => {
    failIfEnded(child);
    // systemd starts sshd and, with pam_nologin(8) in mind, lets users in when all else is up.
    const { status } = spawnSync("nsenter", [
      ...inside(leader),
      "systemctl",
      "--quiet",
      "is-active",
      "multi-user.target",
    ]);
    return status === 0 && await accepts(address);
  }, { deadlineMs: BOOT_LIMIT_MS, what: "a host that lets users in", intervalMs: 50 });
}

function failIfEnded({ exitCode, signalCode }: ChildProcess): void {
  const end = exitCode ?? signalCode;
  if (end !== null) throw new Error(`systemd-nspawn ended with ${end}`);
}

function accepts(host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectTcp({ host, port: 22 });
    socket.once("connect", () => resolve(true));
    socket.once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}

interface HostFacts {
  leader: number;
  address: string;
  key: UserKey;
  base: string;
  dir: TempDir;
  stop: () => Promise<void>;
}

function hostAt({ leader, address, key, base, dir, stop }: HostFacts): BootedHost {
  const publicKey = join(base, "etc/ssh/ssh_host_ed25519_key.pub");
  const hostFingerprint = execFileSync("ssh-keygen", ["-lf", publicKey], { encoding: "utf8" })
    .split(" ")[1]!;
  const knownHosts = join(dir.path, "known_hosts");
  writeFileSync(knownHosts, `${address} ${readFileSync(publicKey, "utf8")}`);
  const exec = (script: string) => runInside(leader, script);
  return {
    address,
    leader,
    key,
    target: (username) => ({
      host: address,
      username,
      privateKey: key.privateKey,
      hostFingerprint,
    }),
    sshArgs: (user) => [
      ...["-F", "none", "-T", "-i", key.path, "-o", "BatchMode=yes", "-o", "IdentityAgent=none"],
      ...["-o", `UserKnownHostsFile=${knownHosts}`, "-o", "LogLevel=ERROR", `${user}@${address}`],
    ],
    exec,
    async sh(script) {
      const { code, stdout, stderr } = await exec(script);
      if (code === 0) return stdout.replace(/\n$/, "");
      throw new Error(`A script on the host ended with ${code}: ${script}\n${stdout}${stderr}`);
    },
    path: (path) => `/proc/${leader}/root${path}`,
    outerPid: (pid) => descendants(leader).find((each) => innerPid(each.pid) === pid)?.pid,
    [Symbol.asyncDispose]: stop,
  };
}

/** All namespaces of a process; the commands that follow run there. */
function inside(leader: number): string[] {
  return ["--target", String(leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"];
}

function runInside(leader: number, script: string): Promise<ScriptEnd> {
  const child = spawn("nsenter", [...inside(leader), "/bin/sh", "-c", script], {
    env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", HOME: "/root" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const end: ScriptEnd = { code: null, stdout: "", stderr: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => end.stdout += text);
  child.stderr.setEncoding("utf8").on("data", (text: string) => end.stderr += text);
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ ...end, code }));
  });
}

/** The pid that a process has in its innermost namespace. */
function innerPid(pid: number): number | undefined {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "latin1");
    return Number(/^NSpid:.*\t(\d+)$/m.exec(status)?.[1]);
  } catch {
    return undefined;
  }
}

/** The kernel ends all processes of the host with its process 1, and that with the cage. */
async function endHost(child: ChildProcess, cgroups: string[], dir: TempDir): Promise<void> {
  const processes = child.pid === undefined ? [] : descendants(child.pid);
  const exit = childExit(child);
  if (child.exitCode === null && child.signalCode === null && signalPid(child.pid!, "SIGKILL")) {
    await exit;
  }
  await until(() => !processes.some(({ pid }) => isAlive(pid)), { what: "the end of the host" });
  removeCgroups(cgroups);
  await dir.remove();
}

function once(action: () => Promise<void>): () => Promise<void> {
  let running: Promise<void> | undefined;
  return () => running ??= action();
}
