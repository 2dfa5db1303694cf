import assert from "node:assert/strict";
import { readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { test } from "node:test";

import { requires } from "../support/requires.ts";
import {
  type InstallTree,
  makeTree,
  PACKAGE,
  pretendSystemd,
  stubAgent,
  takeSystemctlCalls,
  treeObstacle,
  USER_UID,
} from "./install_tree.ts";

const INSTALL = `${PACKAGE}/install.sh`;
const SOCKET = "/etc/systemd/system/sshlock-agent.socket";
const SERVICE = "/etc/systemd/system/sshlock-agent.service";

const skip = treeObstacle();

test("the units keep what the holders need", { skip }, async () => {
  await using tree = await installed();
  assertHas(tree, SOCKET, [
    "ListenStream=/run/sshlock/agent.sock",
    "SocketGroup=sshlock",
    "SocketMode=0660",
    "Backlog=512",
  ]);
  const service = assertHas(tree, SERVICE, [
    "ExecStart=/usr/local/bin/sshlock-agent serve",
    "KillMode=process",
    "OOMPolicy=continue",
    "OOMScoreAdjust=-900",
    "LimitNOFILE=524288",
    "TasksMax=infinity",
    "Restart=always",
    "RuntimeDirectory=sshlock",
    "RuntimeDirectoryPreserve=yes",
    "StateDirectory=sshlock",
    "UnsetEnvironment=BUN_OPTIONS BUN_BE_BUN",
    "NoNewPrivileges=yes",
  ]);
  const blind =
    /^(MemoryDenyWriteExecute|ProtectProc|ProcSubset|Private(IPC|PIDs|Users|Devices|Network))=/m;
  assert.doesNotMatch(service, blind);
});

const verify = skip ?? requires("systemd-analyze");
test("systemd-analyze verify has nothing to say about the units", { skip: verify }, async () => {
  await using tree = await installed();
  const { code, stdout, stderr } = await tree.run(
    `systemd-analyze verify ${SOCKET} ${SERVICE} 2>&1`,
  );
  assert.equal(stdout + stderr, "");
  assert.equal(code, 0);
});

test(
  "a fresh install enables the socket, an upgrade restarts the service only",
  { skip },
  async () => {
    await using tree = await installed();
    assert.deepEqual(takeSystemctlCalls(tree), [
      "daemon-reload",
      "enable --now sshlock-agent.socket",
      "try-restart sshlock-agent.service",
    ]);
    tree.write(`${PACKAGE}/dist/sshlock-agent`, stubAgent("2.0.0"), 0o755);
    tree.write("/opt/active", "");
    await tree.run(INSTALL);
    assert.deepEqual(takeSystemctlCalls(tree), [
      "enable --now sshlock-agent.socket",
      "try-restart sshlock-agent.service",
    ]);
  },
);

test("a changed socket unit is restarted with the service stopped", { skip }, async () => {
  await using tree = await installed();
  tree.write(SOCKET, "[Socket]\nListenStream=/run/old.sock\n");
  tree.write("/opt/active", "");
  takeSystemctlCalls(tree);
  await tree.run(INSTALL);
  assert.deepEqual(takeSystemctlCalls(tree), [
    "daemon-reload",
    "stop sshlock-agent.service",
    "restart sshlock-agent.socket",
    "enable sshlock-agent.socket",
    "start sshlock-agent.service",
  ]);
});

test("--no-service writes no unit and does not call systemctl", { skip }, async () => {
  await using tree = await makeTree("Debian-like");
  pretendSystemd(tree);
  const { code, stdout } = await tree.run(`${INSTALL} --no-service`);
  assert.equal(code, 0);
  assert.match(stdout, /To start the agent:/);
  assert.deepEqual(takeSystemctlCalls(tree), []);
  assert.equal(tree.snapshot().some((line) => line.startsWith(SERVICE)), false);
});

test("a systemctl that fails is reported with what it said", { skip }, async () => {
  await using tree = await makeTree("Debian-like");
  pretendSystemd(tree);
  tree.write("/opt/tools/systemctl", "#!/bin/sh\necho Unit is masked >&2; exit 1\n", 0o755);
  const { code, stderr } = await tree.run(INSTALL);
  assert.equal(code, 125);
  assert.match(
    stderr,
    /the files are installed, but "systemctl daemon-reload" failed: Unit is masked/,
  );
});

test("a masked unit is left masked", { skip }, async () => {
  await using tree = await makeTree("Debian-like");
  pretendSystemd(tree);
  const before = tree.snapshot();
  const { code, stderr } = await tree.run(
    `ln -s /dev/null ${SOCKET}; ${INSTALL}; code=$?; rm ${SOCKET}; exit $code`,
  );
  assert.equal(code, 125);
  assert.match(stderr, /sshlock-agent\.socket: a symbolic link is in the way\nhint: .* unmask/);
  assert.deepEqual(tree.snapshot(), before);
});

test("an agent that was started by hand is named and left alone", { skip }, async () => {
  await using tree = await makeTree("Debian-like");
  const agent = "/usr/local/bin/sshlock-agent";
  // Stands for an agent: a program of that name with "serve" among its arguments.
  const start = `mkfifo /tmp/wait; cp /opt/holder-image ${agent}; chmod 755 ${agent}
    ${agent} -c "read x </tmp/wait" agent serve & pid=$!
    until grep -q serve /proc/$pid/cmdline; do :; done`;
  const { code, stdout, stderr } = await tree.run(`${start}
    ${INSTALL}
    mkdir -p /run/systemd/system
    printf '#!/bin/sh\\ncase $* in *is-active*) exit 3 ;; esac\\n' >/opt/tools/systemctl
    chmod 755 /opt/tools/systemctl
    ${INSTALL} --quiet; kill -0 $pid && echo "lives: $pid"
    ${INSTALL} --uninstall`);
  assert.equal(code, 0, stderr);
  const pid = /^lives: (\d+)$/m.exec(stdout)?.[1];
  assert.match(stdout, new RegExp(`an agent runs with the old version.*: kill ${pid}$`, "m"));
  assert.match(stderr, new RegExp(`agent ${pid} was not started by systemd`));
  assert.match(stdout, new RegExp(`^ended +agent ${pid}$`, "m"));
});

test("a user install writes user units where a user manager runs", { skip }, async () => {
  await using tree = await makeTree("Debian-like");
  pretendSystemd(tree);
  const folder = `/run/user/${USER_UID}/systemd`;
  tree.write(`${folder}/x`, "");
  rmSync(tree.path(`${folder}/x`));
  const manager = createServer();
  await new Promise<void>((ready) => manager.listen(tree.path(`${folder}/private`), ready));
  try {
    const { code, stderr } = await tree.run(INSTALL, { uid: USER_UID });
    assert.equal(code, 0, stderr);
    const units = "/home/alice/.config/systemd/user/sshlock-agent";
    assertHas(tree, `${units}.socket`, ["ListenStream=%t/sshlock/agent.sock", "SocketMode=0600"]);
    assertHas(tree, `${units}.service`, [
      "ExecStart=/home/alice/.local/bin/sshlock-agent serve",
      "KillMode=process",
    ]);
    assert.deepEqual(takeSystemctlCalls(tree), [
      "--user daemon-reload",
      "--user enable --now sshlock-agent.socket",
      "--user try-restart sshlock-agent.service",
    ]);
  } finally {
    manager.close();
  }
});

async function installed(): Promise<InstallTree> {
  const tree = await makeTree("Debian-like");
  pretendSystemd(tree);
  const { code, stderr } = await tree.run(INSTALL);
  assert.equal(code, 0, stderr);
  return tree;
}

function assertHas(tree: InstallTree, unit: string, lines: string[]): string {
  const text = readFileSync(tree.path(unit), "utf8");
  for (const line of lines) assert.ok(text.split("\n").includes(line), `${unit} has ${line}`);
  return text;
}
