import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, lstatSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

import { requires } from "../support/requires.ts";
import {
  copyWithLibraries,
  FLAVOURS,
  type InstallTree,
  makeTree,
  PACKAGE,
  pretendSystemd,
  stubAgent,
  takeSystemctlCalls,
  treeObstacle,
  USER_UID,
} from "./install_tree.ts";

const AGENT = "/usr/local/bin/sshlock-agent";
const HOLDER = "/usr/local/lib/sshlock/sshlock-holder";
const INSTALL = `${PACKAGE}/install.sh`;
const NEW_AGENT = `${PACKAGE}/dist/sshlock-agent`;
const UNITS = "/etc/systemd/system/sshlock-agent";

for (const flavour of FLAVOURS) {
  const onTree = (
    name: string,
    run: (tree: InstallTree) => Promise<void>,
    obstacle: string | undefined = undefined,
  ) =>
    test(`${flavour}: ${name}`, { skip: treeObstacle() ?? obstacle }, async () => {
      await using tree = await makeTree(flavour);
      await run(tree);
    });

  onTree("a fresh install puts agent, holder, group and state folder in place", async (tree) => {
    const { code, stdout, stderr } = await tree.run(INSTALL);
    assert.equal(stderr, "");
    assert.equal(code, 0);
    assert.equal(text(tree, AGENT), stubAgent("1.0.0"));
    assert.equal(mode(tree, AGENT), 0o755);
    assert.deepEqual(
      readFileSync(tree.path(HOLDER)),
      readFileSync(tree.path("/opt/holder-image")),
    );
    assert.equal(mode(tree, HOLDER), 0o755);
    const state = lstatSync(tree.path("/var/lib/sshlock"));
    assert.equal(state.mode & 0o7777, 0o700);
    assert.equal(`${state.uid}:${state.gid}`, `0:${groupId(tree)}`);
    assert.match(stdout, /To start the agent:\n +\/usr\/local\/bin\/sshlock-agent serve\n/);
    assert.match(
      stdout,
      /sshlock-agent 1\.0\.0 is installed; "sshlock-agent doctor" says:\ndoctor ran\n/,
    );
    assert.equal(existsSync(tree.path(`${UNITS}.service`)), false, "no units without systemd");
    assert.deepEqual(leftBehind(tree), []);
  });

  onTree("a second run changes nothing and says so", async (tree) => {
    pretendSystemd(tree);
    await succeed(tree, `${INSTALL} --allow-user alice`);
    const before = tree.snapshot();
    const inode = lstatSync(tree.path(AGENT)).ino;
    takeSystemctlCalls(tree);
    const stdout = await succeed(tree, `${INSTALL} --allow-user alice`);
    for (const path of [AGENT, HOLDER, `${UNITS}.socket`, `${UNITS}.service`, "group sshlock"]) {
      assert.match(stdout, new RegExp(`^unchanged +${path}$`, "m"));
    }
    assert.match(stdout, /^unchanged +alice is in the group sshlock$/m);
    assert.doesNotMatch(stdout, /^(installed|replaced|created|added)/m);
    assert.deepEqual(takeSystemctlCalls(tree), ["enable --now sshlock-agent.socket"]);
    assert.equal(lstatSync(tree.path(AGENT)).ino, inode);
    assert.deepEqual(tree.snapshot(), before);
  });

  onTree(
    "an upgrade swaps the file at once and leaves the old one to who has it open",
    async (tree) => {
      await succeed(tree, INSTALL);
      const before = lstatSync(tree.path(AGENT)).ino;
      tree.write(NEW_AGENT, stubAgent("2.0.0"), 0o755);
      const stdout = await succeed(
        tree,
        `exec 3<${AGENT}
      (until [ -e /tmp/done ]; do [ -x ${AGENT} ] || echo missing; done >/tmp/probe) &
      ${INSTALL} && : >/tmp/done && wait && cat /tmp/probe && cat <&3 >/tmp/old`,
      );
      assert.match(stdout, /^replaced +\/usr\/local\/bin\/sshlock-agent$/m);
      assert.match(stdout, /^unchanged +\/usr\/local\/lib\/sshlock\/sshlock-holder$/m);
      assert.doesNotMatch(stdout, /missing/);
      assert.notEqual(lstatSync(tree.path(AGENT)).ino, before);
      assert.equal(text(tree, AGENT), stubAgent("2.0.0"));
      assert.equal(text(tree, "/tmp/old"), stubAgent("1.0.0"));
      assert.deepEqual(leftBehind(tree), []);
    },
  );

  onTree("a failure in the middle of the swap gives the old version back", async (tree) => {
    pretendSystemd(tree);
    await succeed(tree, INSTALL);
    takeSystemctlCalls(tree);
    const before = tree.snapshot();
    tree.write(NEW_AGENT, stubAgent("2.0.0-beta"), 0o755);
    tree.write("/opt/holder-image", "another holder", 0o755);
    // rename(2) does not go over a mount point.
    const { code, stderr } = await tree.run(`mount -o bind ${HOLDER} ${HOLDER}; ${INSTALL}`);
    assert.equal(code, 125);
    assert.match(
      stderr,
      /cannot put the new version to \/usr\/local\/lib\/sshlock\/sshlock-holder/,
    );
    assert.equal(text(tree, AGENT), stubAgent("1.0.0"));
    assert.deepEqual(withoutPackage(tree.snapshot()), withoutPackage(before));
    assert.deepEqual(takeSystemctlCalls(tree), []);
  });

  onTree("a fresh install that fails in the middle leaves nothing", async (tree) => {
    tree.write("/opt/holder-image", "");
    const before = tree.snapshot();
    const { code, stderr } = await tree.run(`${INSTALL} --prefix /srv/deep/prefix`);
    assert.equal(code, 125);
    assert.match(stderr, /cannot write the holder: "sshlock-agent holder --write" wrote nothing/);
    assert.deepEqual(tree.snapshot(), before);
  });

  onTree("an install that is interrupted leaves nothing", async (tree) => {
    const interrupt = `#!/bin/sh\nkill -TERM "$(cat /tmp/pid)"\n`;
    tree.write(NEW_AGENT, interrupt, 0o755);
    tree.write("/tmp/pid", "");
    const before = tree.snapshot();
    const { code } = await tree.run(
      `sh -c 'echo $$ >/tmp/pid; exec ${INSTALL} --from ${NEW_AGENT}'; code=$?; : >/tmp/pid; exit $code`,
    );
    assert.equal(code, 143);
    assert.deepEqual(tree.snapshot(), before);
  });

  onTree("--prefix puts everything below another folder", async (tree) => {
    pretendSystemd(tree);
    await succeed(tree, `${INSTALL} --prefix /opt/other/`);
    assert.match(
      text(tree, `${UNITS}.service`),
      /^ExecStart=\/opt\/other\/bin\/sshlock-agent serve$/m,
    );
    assert.equal(mode(tree, "/opt/other/lib/sshlock/sshlock-holder"), 0o755);
    assert.equal(existsSync(tree.path(AGENT)), false);
    await succeed(tree, `${INSTALL} --uninstall --prefix /opt/other`);
    assert.equal(existsSync(tree.path("/opt/other/lib/sshlock")), false);
    assert.equal(existsSync(tree.path("/opt/other/bin/sshlock-agent")), false);
  });

  onTree("a right checksum is accepted, from the option or from a file", async (tree) => {
    const sum = sha256(stubAgent("1.0.0"));
    await succeed(tree, `${INSTALL} --sha256 ${sum.toUpperCase()}`);
    tree.write("/opt/SUMS", `${"0".repeat(64)}  other\n${sum} *sshlock-agent\n`);
    await succeed(tree, `${INSTALL} --checksums=/opt/SUMS`);
  });

  onTree("a wrong checksum is an error that names both, and changes nothing", async (tree) => {
    const before = tree.snapshot();
    const wrong = "ab".repeat(32);
    const { code, stdout, stderr } = await tree.run(`${INSTALL} --sha256 ${wrong}`);
    assert.equal(code, 125);
    assert.equal(stdout, "");
    assert.match(stderr, new RegExp(`its checksum is ${sha256(stubAgent("1.0.0"))}`));
    assert.match(stderr, new RegExp(`expected was ${wrong}`));
    assert.deepEqual(tree.snapshot(), before);
    const dry = await tree.run(`${INSTALL} --dry-run --sha256 ${wrong}`);
    assert.equal(dry.code, 125);
    tree.write("/tmp/SUMS", `${wrong}  other\n`);
    const unlisted = await tree.run(`${INSTALL} --checksums /tmp/SUMS`);
    assert.equal(unlisted.code, 125);
    assert.match(unlisted.stderr, /cannot check "sshlock-agent": "\/tmp\/SUMS" has no line for it/);
  });

  onTree("a missing or unusable binary is named and changes nothing", async (tree) => {
    const before = tree.snapshot();
    const missing = await tree.run(`${INSTALL} --from /opt/nothing`);
    assert.match(missing.stderr, /cannot install from "\/opt\/nothing": no such file or folder/);
    tree.write("/opt/broken", "#!/bin/sh\necho no such library >&2; exit 127\n", 0o755);
    const broken = await tree.run(`${INSTALL} --from /opt/broken`);
    assert.match(broken.stderr, /"sshlock-agent version" failed on this machine: no such library/);
    assert.match(broken.stderr, /hint: this machine is (x86_64|aarch64) with glibc/);
    rmSync(tree.path("/opt/broken"));
    rmSync(tree.path(NEW_AGENT));
    const empty = await tree.run(INSTALL);
    assert.match(
      empty.stderr,
      /looked for sshlock-agent sshlock-agent-linux-(x64|arm64)\nhint: build it/,
    );
    for (const { code } of [missing, broken, empty]) assert.equal(code, 125);
    assert.deepEqual(withoutPackage(tree.snapshot()), withoutPackage(before));
  });

  onTree("the binary for this machine's processor and libc is found", async (tree) => {
    rmSync(tree.path(NEW_AGENT));
    const arch = process.arch === "x64" ? "x64" : "arm64";
    tree.write(`/opt/mix/sshlock-agent-linux-${arch}`, stubAgent("glibc"), 0o755);
    tree.write(`/opt/mix/sshlock-agent-linux-${arch}-musl`, stubAgent("musl"), 0o755);
    await succeed(tree, `${INSTALL} --from /opt/mix`);
    assert.equal(text(tree, AGENT), stubAgent("glibc"));
    tree.write("/opt/tools/ldd", "#!/bin/sh\necho 'musl libc (x86_64)' >&2; exit 1\n", 0o755);
    await succeed(tree, `${INSTALL} --from /opt/mix`);
    assert.equal(text(tree, AGENT), stubAgent("musl"));
    // This shell has uname built in.
    if (flavour === "busybox-only") return;
    tree.write("/opt/tools/uname", "#!/bin/sh\necho riscv64\n", 0o755);
    const { code, stderr } = await tree.run(`${INSTALL} --from /opt/mix`);
    assert.equal(code, 125);
    assert.match(stderr, /cannot install on riscv64: there are binaries for x86_64 and aarch64/);
  });

  onTree("a download is installed when its checksum is right", async (tree) => {
    const server = createServer((request, response) => {
      response.statusCode = request.url?.startsWith("/v1/sshlock-agent-linux-") ? 200 : 404;
      response.end(stubAgent("downloaded"));
    });
    await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
    try {
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      const sum = sha256(stubAgent("downloaded"));
      const before = tree.snapshot();
      const gone = await tree.run(`${INSTALL} --from ${url}/gone --sha256 ${sum}`);
      assert.equal(gone.code, 125);
      assert.match(gone.stderr, /cannot download http.*\/gone: (curl|wget) said: .*404/);
      const wrong = await tree.run(`${INSTALL} --from ${url}/v1/ --sha256 ${"0".repeat(64)}`);
      assert.match(wrong.stderr, new RegExp(`its checksum is ${sum}, expected was 0{64}`));
      assert.deepEqual(tree.snapshot(), before);
      await succeed(tree, `${INSTALL} --from ${url}/v1/ --sha256 ${sum}`);
      assert.equal(text(tree, AGENT), stubAgent("downloaded"));
      assert.deepEqual(leftBehind(tree), []);
    } finally {
      server.close();
      server.closeAllConnections();
    }
  }, flavour === "busybox-only" ? undefined : requires("curl") && requires("wget"));

  onTree("--allow-user adds to the group and refuses a name that nobody has", async (tree) => {
    const before = tree.snapshot();
    const { code, stderr } = await tree.run(`${INSTALL} --allow-user alice --allow-user carol`);
    assert.equal(code, 125);
    assert.match(stderr, /cannot allow "carol" to use the agent: there is no such user\nhint: /);
    assert.deepEqual(tree.snapshot(), before);
    await succeed(tree, `${INSTALL} --allow-user alice --allow-user=bob`);
    assert.match(text(tree, "/etc/group"), /^sshlock:x:\d+:alice,bob$/m);
  });

  onTree("--dry-run says what a run would do and changes nothing", async (tree) => {
    pretendSystemd(tree);
    const before = tree.snapshot();
    const fresh = await succeed(tree, `${INSTALL} --dry-run --allow-user alice`);
    assert.match(fresh, /^would create +group sshlock$/m);
    assert.match(fresh, /^would install +\/usr\/local\/bin\/sshlock-agent$/m);
    assert.match(fresh, /^would install +\/etc\/systemd\/system\/sshlock-agent\.socket$/m);
    assert.match(fresh, /^would add +alice to the group sshlock$/m);
    assert.deepEqual(tree.snapshot(), before);
    assert.deepEqual(takeSystemctlCalls(tree), []);
    await succeed(tree, INSTALL);
    const installed = tree.snapshot();
    assert.doesNotMatch(
      await succeed(tree, `${INSTALL} --dry-run`),
      /would (install|replace|create)/,
    );
    assert.match(await succeed(tree, `${INSTALL} --uninstall --dry-run --purge`), /^would remove/m);
    assert.deepEqual(tree.snapshot(), installed);
  });

  onTree("what doctor finds is told and is not fatal", async (tree) => {
    tree.write("/opt/doctor-status", "3");
    const { code, stdout, stderr } = await tree.run(`${INSTALL} --quiet`);
    assert.equal(code, 0);
    assert.equal(stdout, "");
    assert.match(stderr, /^doctor ran\ninstall\.sh: sshlock-agent doctor found .* \(exit code 3\)/);
  });

  onTree("two runs at once: the second is refused", async (tree) => {
    const hold = flavour === "Debian-like"
      ? "exec 8</usr/local; flock -n 8"
      : "mkdir /usr/local/.sshlock-install; echo 1 >/usr/local/.sshlock-install/pid";
    const { code, stderr } = await tree.run(`${hold}; ${INSTALL}`);
    assert.equal(code, 125);
    assert.match(stderr, /cannot install to \/usr\/local: another install\.sh is running/);
    assert.equal(existsSync(tree.path(AGENT)), false);
  });

  onTree("a config file stays as it is, and one that is wrong stops an upgrade", async (tree) => {
    tree.write("/etc/sshlock/agent.json", "{}");
    await succeed(tree, INSTALL);
    tree.write(NEW_AGENT, stubAgent("1.1.0"), 0o755);
    tree.write("/etc/sshlock/agent.json", '{"wrong": 1}');
    const { code, stderr } = await tree.run(INSTALL);
    assert.notEqual(code, 0);
    assert.match(
      stderr,
      /cannot install: "sshlock-agent serve --check-config" said: \{"wrong": 1\}/,
    );
    assert.equal(text(tree, AGENT), stubAgent("1.0.0"));
    tree.write("/etc/sshlock/agent.json", '{"graceMs": 1}');
    await succeed(tree, INSTALL);
    assert.equal(text(tree, AGENT), stubAgent("1.1.0"));
    assert.equal(text(tree, "/etc/sshlock/agent.json"), '{"graceMs": 1}');
  });

  onTree("--uninstall --purge leaves nothing, without --purge the tokens stay", async (tree) => {
    pretendSystemd(tree);
    const before = tree.snapshot();
    await succeed(tree, `${INSTALL} --allow-user alice`);
    tree.write("/run/sshlock/locks/demo.json", "{}");
    tree.write("/var/lib/sshlock/tokens", "7");
    tree.write("/etc/sshlock/agent.json", "{}");
    takeSystemctlCalls(tree);
    const kept = await succeed(tree, `${INSTALL} --uninstall`);
    assert.match(kept, /^kept +\/var\/lib\/sshlock \(/m);
    assert.equal(text(tree, "/var/lib/sshlock/tokens"), "7");
    assert.match(kept, /^kept +\/etc\/sshlock\/agent\.json \(/m);
    assert.deepEqual(takeSystemctlCalls(tree), [
      "disable --now sshlock-agent.socket sshlock-agent.service",
      "daemon-reload",
    ]);
    rmSync(tree.path("/etc/sshlock"), { recursive: true });
    await succeed(tree, `${INSTALL} --uninstall --purge`);
    const ours = (line: string) => !/^\/etc\/(gshadow|group|systemd)/.test(line);
    assert.deepEqual(tree.snapshot().filter(ours), before.filter(ours));
    assert.doesNotMatch(text(tree, "/etc/group"), /sshlock/);
    const again = await succeed(tree, `${INSTALL} --uninstall`);
    assert.equal(again, "nothing is installed in /usr/local\n");
  });

  onTree("--uninstall is refused while a lock is held, --force ends the lock", async (tree) => {
    await succeed(tree, INSTALL);
    // Stands for a holder: the installed image under a holder's argv[0].
    const holder = `mkfifo /tmp/wait; ln -s ${HOLDER} /tmp/session-lock-demo
      (PATH=/tmp:$PATH; exec session-lock-demo -c "read x </tmp/wait") & pid=$!
      until grep -q ^session-lock-demo /proc/$pid/cmdline; do :; done`;
    const { code, stdout, stderr } = await tree.run(`${holder}
      ${INSTALL} --uninstall; echo "refused: $?"
      kill -0 $pid && echo lives; [ -x ${AGENT} ] && echo installed
      cp ${HOLDER} /tmp/next && mv /tmp/next ${HOLDER}
      ${INSTALL} --uninstall >/tmp/out; echo "replaced: $?"
      ${INSTALL} --uninstall --force
      kill -0 $pid 2>/dev/null && echo lives-on; exit 0`);
    assert.equal(code, 0, stderr);
    assert.match(
      stderr,
      /cannot uninstall from \/usr\/local: 1 lock\(s\) are held, by the holders \d+\nhint: /,
    );
    assert.match(stdout, /^refused: 125\nlives\ninstalled\nreplaced: 125\nended +holder \d+$/m);
    assert.doesNotMatch(stdout, /lives-on/);
    assert.equal(existsSync(tree.path(HOLDER)), false);
  });

  onTree("a normal user installs into the home folder and needs no root", async (tree) => {
    const before = tree.snapshot();
    const stdout = await succeed(tree, INSTALL, { uid: USER_UID });
    const home = "/home/alice/.local";
    assert.equal(text(tree, `${home}/bin/sshlock-agent`), stubAgent("1.0.0"));
    assert.equal(mode(tree, `${home}/lib/sshlock/sshlock-holder`), 0o755);
    assert.equal(mode(tree, `${home}/state/sshlock`), 0o700);
    assert.equal(lstatSync(tree.path(`${home}/bin/sshlock-agent`)).uid, USER_UID);
    assert.match(stdout, /\/home\/alice\/\.local\/bin is not in PATH/);
    const others = tree.snapshot().filter((line) => !line.startsWith(home));
    assert.deepEqual(others, before);
    await succeed(tree, `${INSTALL} --uninstall --purge`, { uid: USER_UID });
    assert.deepEqual(
      tree.snapshot().filter((line) => line.startsWith(home) && / 100\d+ /.test(line)),
      [],
    );
    const refused = await tree.run(`${INSTALL} --system`, { uid: USER_UID });
    assert.equal(refused.code, 125);
    assert.match(refused.stderr, /cannot install for all users: uid 4242 is not root/);
  });

  onTree("the built agent installs, reports and uninstalls", async (tree) => {
    copyWithLibraries(tree, "dist/sshlock-agent", NEW_AGENT);
    const stdout = await succeed(tree, `${INSTALL} 2>&1 && ${INSTALL} 2>&1`);
    assert.match(stdout, /^installed +\/usr\/local\/bin\/sshlock-agent$/m);
    assert.match(stdout, /^unchanged +\/usr\/local\/lib\/sshlock\/sshlock-holder$/m);
    assert.equal(readFileSync(tree.path(HOLDER)).subarray(0, 4).toString("latin1"), "\x7fELF");
    await succeed(tree, `${INSTALL} --uninstall --purge`);
    assert.equal(existsSync(tree.path(AGENT)), false);
  }, requires("dist/sshlock-agent"));
}

async function succeed(tree: InstallTree, script: string, options = {}): Promise<string> {
  const { code, stdout, stderr } = await tree.run(script, options);
  assert.equal(code, 0, `${script}: ${stdout}${stderr}`);
  return stdout;
}

function text(tree: InstallTree, inside: string): string {
  return readFileSync(tree.path(inside), "utf8");
}

function mode(tree: InstallTree, inside: string): number {
  return lstatSync(tree.path(inside)).mode & 0o7777;
}

function groupId(tree: InstallTree): string | undefined {
  return /^sshlock:x:(\d+):/m.exec(text(tree, "/etc/group"))?.[1];
}

function sha256(content: string): string {
  return createHash("sha256").update(content).digest("hex");
}

/** Temporary names of an installation. */
function leftBehind(tree: InstallTree): string[] {
  return tree.snapshot().filter((line) => /\.(new|old)\.\d|sshlock-install/.test(line));
}

function withoutPackage(lines: string[]): string[] {
  return lines.filter((line) => !/^\/opt\//.test(line));
}
