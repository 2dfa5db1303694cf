import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";

import { requires } from "../support/requires.ts";
import { INSTALL_SH } from "./install_tree.ts";

test("install.sh has no shellcheck findings", { skip: requires("shellcheck") }, () => {
  const { status, stdout } = spawnSync("shellcheck", [INSTALL_SH], { encoding: "utf8" });
  assert.equal(stdout, "");
  assert.equal(status, 0);
});

for (const [shell, ...applet] of [["dash"], ["busybox", "sh"], ["sh"]] as [string, ...string[]][]) {
  test(`install.sh parses in ${[shell, ...applet].join(" ")}`, { skip: requires(shell) }, () => {
    const args = [...applet, "-n", INSTALL_SH];
    const { status, stderr } = spawnSync(shell, args, { encoding: "utf8" });
    assert.equal(stderr, "");
    assert.equal(status, 0);
  });
}

test("install.sh --help fits 80 columns and names every option", () => {
  const { status, stdout } = install("--help");
  assert.equal(status, 0);
  assert.deepEqual(stdout.split("\n").filter((line) => line.length > 80), []);
  const parser = /^parse_arguments\(\) \{\n(.*?)^\}/ms.exec(readFileSync(INSTALL_SH, "utf8"));
  const options = new Set(parser?.[1]?.match(/--[a-z][a-z0-9-]+/g));
  assert.ok(options.size >= 15, `found ${options.size} options`);
  for (const option of options) assert.match(stdout, new RegExp(`^  ${option}\\b`, "m"));
});

test("install.sh --version is the version of the package", () => {
  const manifest = readFileSync(join(dirname(INSTALL_SH), "package.json"), "utf8");
  const { stdout } = install("--version");
  assert.equal(stdout, `install.sh of sshlock ${JSON.parse(manifest).version}\n`);
});

const misuse: [string[], RegExp][] = [
  [["--nonsense"], /unknown argument "--nonsense"\nhint: /],
  [["FILE"], /unknown argument "FILE"/],
  [["--from"], /--from needs a value/],
  [["--sha256", "12ab"], /--sha256 "12ab" is not a checksum of 64 hex digits/],
  [["--sha256", "z".repeat(64)], /is not a checksum of 64 hex digits/],
  [["--sha256", "0".repeat(64), "--checksums", "F"], /exclude each other/],
  [["--user", "--system"], /--user and --system exclude each other/],
  [["--user", "--allow-user", "root"], /--allow-user goes with a system install/],
  [["--allow-user", "a;b"], /--allow-user "a;b" is not a user name/],
  [["--allow-user="], /--allow-user "" is not a user name/],
  [["--purge"], /--force and --purge need --uninstall/],
  [["--uninstall", "--from", "x"], /--uninstall goes with/],
  [["--prefix", "relative"], /cannot use "relative": the path is not absolute/],
  [["--prefix", "/a b"], /cannot use "\/a b": allowed in the path are/],
  [["--prefix", "/a%h"], /cannot use "\/a%h"/],
  [["--prefix", "/a/../b"], /cannot use "\/a\/..\/b"/],
  [["--prefix", "/"], /cannot use \/ as the prefix/],
  [["--from", "ftp://host/x"], /only http and https are known/],
  [["--from", "http://localhost/x"], /a download needs its checksum/],
];

for (const [args, message] of misuse) {
  test(`install.sh ${args.join(" ")} is refused with exit code 125`, () => {
    const { status, stdout, stderr } = install("--dry-run", ...args);
    assert.match(stderr, message);
    assert.match(stderr, /^install\.sh: /);
    assert.equal(status, 125);
    assert.equal(stdout, "");
  });
}

function install(...args: string[]) {
  // A --dry-run of a user install touches nothing, should a check ever let one through.
  const mode = args.some((arg) => /^--(user|system|allow-user)/.test(arg)) ? [] : ["--user"];
  return spawnSync("/bin/sh", [INSTALL_SH, ...mode, ...args], { encoding: "utf8" });
}
