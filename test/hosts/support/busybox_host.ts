/**
 * Hosts with one static busybox for a userland and dropbear for an SSH server, as small devices and
 * container images have them. dropbear knows no streamlocal channels.
 */

import { spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { symlinkSync } from "node:fs";
import { connect as connectTcp } from "node:net";
import { dirname, join, resolve } from "node:path";
import type { Target } from "../../../controller/mod.ts";
import { childExit } from "../../support/child.ts";
import { until } from "../../support/events.ts";
import { descendants, isAlive, signalPid } from "../../support/processes.ts";
import { findTool, requires, root } from "../../support/requires.ts";
import { makeTempDir } from "../../support/temp_dir.ts";
import { connectNamespace } from "./host_network.ts";
import { makeUserKey } from "./user_key.ts";

/** What a host has beside busybox and dropbear. */
export interface BusyboxOptions {
  /** Programs of this machine to put there, by name; they come with their libraries. */
  programs?: string[];
  /** Whether install.sh and the agent lie in /opt/sshlock there. */
  withAgent?: boolean;
}

/** A running host. */
export interface BusyboxHost extends AsyncDisposable {
  /** Where to log in as root, for the library. */
  readonly target: Target;
  /** Runs a script there as root, with the shell of busybox. */
  sh(script: string): { code: number | null; stdout: string; stderr: string };
  /** What dropbear has logged. */
  log(): string;
}

const FOLDERS = [
  "bin",
  "dev",
  "etc",
  "opt/sshlock/dist",
  "proc",
  "root/.ssh",
  "run",
  "tmp",
  "usr/bin",
  "usr/local/bin",
  "var/lib",
];

// The root is moved into, not chrooted to, so that nsenter(1) finds it.
const START = `set -e
mount --bind "$ROOT" "$ROOT"
cd "$ROOT"
mount -t proc proc proc
mount -t tmpfs -o mode=0755 tmpfs dev
mkdir -m 1777 dev/shm
mkdir dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
for node in null zero urandom random tty; do
  : >"dev/$node"
  mount --bind "/dev/$node" "dev/$node"
done
mkdir old
pivot_root . old
exec /bin/busybox chroot / /bin/sh -c 'umount -l /old; exec dropbear -F -E -s -p 22 -r /etc/host_key'
`;

/** Why no such host can be started here, or `undefined`. */
export function whyNoBusyboxHosts(): string | undefined {
  const missing = requires(
    root,
    ...["busybox", "dropbear", "dropbearkey", "unshare", "nsenter", "setpriv", "ip", "ssh-keygen"],
    "dist/sshlock-agent",
  );
  if (missing !== undefined) return missing;
  const probe = spawnSync("unshare", ["--net", "ip", "link", "add", "slhprobe", "type", "veth"]);
  return probe.status === 0
    ? undefined
    : `cannot make a network of its own: ${probe.stderr}`.trim();
}

/** Starts a host and waits until its SSH server answers. */
export async function startBusyboxHost(options: BusyboxOptions = {}): Promise<BusyboxHost> {
  const dir = await makeTempDir("busybox");
  const base = join(dir.path, "root");
  const key = makeUserKey(dir.path);
  fill(base, options);
  writeFileSync(join(base, "root/.ssh/authorized_keys"), key.publicKey, { mode: 0o600 });
  const hostFingerprint = makeHostKey(join(base, "etc/host_key"));
  const child = spawn("setpriv", [
    ...["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--net", "--uts", "--ipc"],
    ...["--fork", "--kill-child", "sh", "-c", START],
  ], {
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin", ROOT: base, HOME: "/root" },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => log += text);
  const exit = childExit(child);
  const dispose = async () => {
    const all = descendants(child.pid!);
    if (child.exitCode === null && child.signalCode === null) signalPid(child.pid!, "SIGKILL");
    await exit;
    await until(() => !all.some(({ pid }) => isAlive(pid)), { what: "the end of the host" });
    await dir.remove();
  };
  try {
    const leader = await until(() => {
      if (child.exitCode !== null) throw new Error(`The host has ended: ${log}`);
      return descendants(child.pid!).find(({ comm }) => comm === "dropbear")?.pid;
    }, { what: "dropbear", deadlineMs: 30_000 });
    const address = connectNamespace(leader);
    await until(() => accepts(address), { what: "a port that answers", deadlineMs: 30_000 });
    return {
      target: { host: address, username: "root", privateKey: key.privateKey, hostFingerprint },
      sh: (script) => {
        const args = ["--target", `${leader}`, "--mount", "--pid", "--net", "--root", "--wd"];
        const { status: code, stdout, stderr } = spawnSync(
          "nsenter",
          [...args, "/bin/sh", "-c", script],
          { encoding: "utf8", env: { PATH: "/usr/local/bin:/usr/bin:/bin", HOME: "/root" } },
        );
        return { code, stdout, stderr };
      },
      log: () => log,
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

function fill(base: string, { programs = [], withAgent = false }: BusyboxOptions): void {
  for (const folder of FOLDERS) mkdirSync(join(base, folder), { recursive: true });
  for (const folder of ["root", "root/.ssh"]) chmodSync(join(base, folder), 0o700);
  chmodSync(join(base, "tmp"), 0o1777);
  const busybox = findTool("busybox") as string;
  copyFileSync(busybox, join(base, "bin/busybox"));
  chmodSync(join(base, "bin/busybox"), 0o755);
  const { stdout } = spawnSync(busybox, ["--list"], { encoding: "utf8" });
  for (const applet of stdout.split("\n").filter((name) => name !== "" && name !== "busybox")) {
    symlinkSync("busybox", join(base, "bin", applet));
  }
  for (const name of ["dropbear", ...programs]) {
    addProgram(base, findTool(name) as string, `/usr/bin/${name}`);
  }
  writeFileSync(join(base, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
  writeFileSync(join(base, "etc/group"), "root:x:0:\nsshlock:x:101:\n");
  writeFileSync(join(base, "etc/shells"), "/bin/sh\n");
  if (!withAgent) return;
  addProgram(base, resolve("dist/sshlock-agent"), "/opt/sshlock/dist/sshlock-agent");
  copyFileSync("install.sh", join(base, "opt/sshlock/install.sh"));
  chmodSync(join(base, "opt/sshlock/install.sh"), 0o755);
}

function addProgram(base: string, from: string, to: string): void {
  copyFileSync(from, join(base, to));
  chmodSync(join(base, to), 0o755);
  const { stdout } = spawnSync("ldd", [from], { encoding: "utf8" });
  for (const [library] of stdout.matchAll(/\/[^ ]+\.so[^ ]*/g)) {
    if (existsSync(join(base, library))) continue;
    mkdirSync(dirname(join(base, library)), { recursive: true });
    copyFileSync(library, join(base, library));
    chmodSync(join(base, library), 0o755);
  }
}

/** @returns The fingerprint as ssh-keygen(1) prints it. */
function makeHostKey(path: string): string {
  const { stdout } = spawnSync("dropbearkey", ["-t", "ed25519", "-f", path], { encoding: "utf8" });
  const line = /^ssh-ed25519 .*$/m.exec(stdout)![0];
  writeFileSync(`${path}.pub`, `${line}\n`);
  const listing = spawnSync("ssh-keygen", ["-lf", `${path}.pub`], { encoding: "utf8" });
  readFileSync(path);
  return listing.stdout.split(" ")[1]!;
}

function accepts(host: string): Promise<boolean> {
  return new Promise((done) => {
    const socket = connectTcp({ host, port: 22 });
    socket.once("connect", () => done(true));
    socket.once("error", () => done(false));
    socket.once("connect", () => socket.destroy());
  });
}
