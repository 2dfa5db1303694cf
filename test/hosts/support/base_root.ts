/**
 * The root folder that all test hosts start from: a small Debian with systemd, logind, PAM and sshd.
 * debootstrap(8) makes it once for each list of packages; it is kept in the cache folder and never
 * written to again.
 */

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { findMirror, type Mirror } from "./mirror.ts";

/** What a booted host needs beside debootstrap's smallest set. */
const PACKAGES = [
  "dbus",
  "iproute2",
  "libpam-systemd",
  "openssh-server",
  "procps",
  "systemd",
  "systemd-sysv",
];

/** Units that cost time at boot, or reach out to the network, and matter to no test. */
const MASKED_UNITS = [
  "apt-daily-upgrade.timer",
  "apt-daily.timer",
  "console-getty.service",
  "dpkg-db-backup.timer",
  "e2scrub_all.timer",
  "e2scrub_reap.service",
  "fstrim.timer",
  "getty.target",
  "systemd-journal-flush.service",
  "systemd-pstore.service",
  "systemd-update-utmp-runlevel.service",
  "systemd-update-utmp.service",
];

/** The users of every host, beside root: uid 1000 and 1001. */
export const HOST_USERS = ["alice", "bob"] as const;

/** Raised when {@link FINISH} changes: the cached root is then made anew. */
const FORMAT = 1;

// In memory first: dpkg syncs each file, which costs a third of the time on a disk.
const BUILD = `set -e
mount -t tmpfs -o mode=0755,size=2g tmpfs "$BUILD"
debootstrap --variant=minbase --include="$INCLUDE" "$SUITE" "$BUILD/root" "$MIRROR"
`;

const FINISH = `
cd "$BUILD/root"
for unit in $MASKED; do ln -sf /dev/null "etc/systemd/system/$unit"; done
for user in $USERS; do chroot . useradd --create-home --shell /bin/bash "$user"; done
rm -rf var/cache/apt/* var/lib/apt/lists/* usr/share/doc/* usr/share/man/* usr/share/locale/*
rm -f etc/hostname
cp -a "$BUILD/root" "$TARGET/root"
`;

/** A base root that could not be made: the machine or its network does not let us. */
export class NoBaseRootError extends Error {
  override name = "NoBaseRootError";
}

let made: Promise<string> | undefined;
let note = "the base root came from the cache";

/** Where the base root came from, and what that took, for people. */
export function describeBaseRoot(): string {
  return note;
}

/**
 * The base root's folder. Makes it where the cache has none, which takes about a minute.
 *
 * @throws {NoBaseRootError} It cannot be made; the message has the last words of debootstrap.
 */
export function baseRoot(): Promise<string> {
  return made ??= findOrMake();
}

async function findOrMake(): Promise<string> {
  const mirror = findMirror();
  const folder = join(cacheFolder(), `${mirror.suite}-${process.arch}-${keyOf(mirror)}`);
  if (!existsSync(folder)) await make(mirror, folder);
  return folder;
}

function cacheFolder(): string {
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  return join(cache, "sshlock-test-hosts");
}

function keyOf({ suite }: Mirror): string {
  const facts = JSON.stringify([FORMAT, suite, PACKAGES, MASKED_UNITS, HOST_USERS]);
  return createHash("sha256").update(facts).digest("hex").slice(0, 12);
}

async function make(mirror: Mirror, folder: string): Promise<void> {
  const began = performance.now();
  mkdirSync(cacheFolder(), { recursive: true });
  const target = mkdtempSync(join(cacheFolder(), ".new-"));
  const build = join(target, "build");
  mkdirSync(build);
  try {
    await runBuild({
      BUILD: build,
      TARGET: target,
      INCLUDE: PACKAGES.join(","),
      SUITE: mirror.suite,
      MIRROR: mirror.url,
      MASKED: MASKED_UNITS.join(" "),
      USERS: HOST_USERS.join(" "),
      ...(mirror.proxy === undefined ? {} : { http_proxy: mirror.proxy }),
    });
    takePlace(join(target, "root"), folder);
  } finally {
    rmSync(target, { recursive: true, force: true });
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(0);
  note = `the base root was made in ${seconds} s`;
}

/** Somebody else may have made it meanwhile; theirs is as good. */
function takePlace(root: string, folder: string): void {
  try {
    renameSync(root, folder);
  } catch (error) {
    if (!existsSync(folder)) throw error;
  }
}

/** In a mount namespace of its own, so that nothing stays mounted however it ends. */
function runBuild(env: Record<string, string>): Promise<void> {
  const script = ["sh", "-c", BUILD + FINISH];
  const child = spawn("setpriv", ["--pdeathsig", "KILL", "unshare", "--mount", ...script], {
    env: {
      PATH: "/usr/sbin:/usr/bin:/sbin:/bin",
      LC_ALL: "C",
      DEBIAN_FRONTEND: "noninteractive",
      ...env,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => said = (said + text).slice(-2_000));
  }
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      if (code === 0) return resolve();
      const last = said.trim().split("\n").slice(-3).join("; ");
      reject(new NoBaseRootError(`debootstrap from ${env.MIRROR} ended with ${code}: ${last}`));
    });
  });
}
