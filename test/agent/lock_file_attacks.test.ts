import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  linkSync,
  mkdirSync,
  readFileSync,
  statfsSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { runCommand } from "../support/agent_command.ts";
import { type AgentProcess, makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { startAgentWithMounts, whyNoMounts } from "../support/wrapped_agent.ts";
import { processesWithLockIn } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import type { RpcError } from "../support/rpc_client.ts";
import { lockPath } from "../support/shell_lock.ts";
import { makeTempDir } from "../support/temp_dir.ts";

const ROOT_ONLY = requires("root");

interface Attack {
  what: string;
  make: (path: string) => void | Promise<unknown>;
  reason: string;
  /** The whole message; PATH stands for the lock file. */
  message: string;
  skip?: string;
}

const ATTACKS: Attack[] = [
  {
    what: "a symlink to a file",
    make: (path) => {
      writeFileSync(`${path}-target`, "");
      symlinkSync(`${path}-target`, path);
    },
    reason: "symlink",
    message: "Cannot open lock file PATH: it is a symlink",
  },
  {
    what: "a symlink to nothing",
    make: (path) => symlinkSync("/nonexistent/file", path),
    reason: "symlink",
    message: "Cannot open lock file PATH: it is a symlink",
  },
  {
    what: "a hard link",
    make: (path) => {
      writeFileSync(`${path}-target`, "");
      linkSync(`${path}-target`, path);
    },
    reason: "hard-link",
    message: "Cannot use lock file PATH: it has 2 links, so its name proves nothing",
  },
  {
    what: "another user's file",
    make: (path) => {
      writeFileSync(path, "");
      chownSync(path, 4711, 4711);
    },
    reason: "foreign-owner",
    message: "Cannot use lock file PATH: it belongs to uid 4711, expected uid 0",
    skip: ROOT_ONLY,
  },
  {
    what: "a folder",
    make: (path) => mkdirSync(path),
    reason: "not-a-file",
    message: "Cannot use lock file PATH: it is no regular file",
  },
  {
    what: "a FIFO",
    make: (path) => execFileSync("mkfifo", [path]),
    reason: "not-a-file",
    message: "Cannot use lock file PATH: it is no regular file",
  },
  {
    what: "a socket",
    make: (path) =>
      new Promise<void>((resolve) => {
        const server = createServer().listen(path, resolve);
        server.unref();
      }),
    reason: "not-a-file",
    message: "Cannot open lock file PATH: it is a socket or a device",
  },
];

for (const { what, make, reason, message, skip } of ATTACKS) {
  test(`a lock file that is ${what} is refused, and the next claim works`, { skip }, async () => {
    await using agent = await startAgent();
    const path = lockPath(agent.dirs.lockDir, "deploy");
    await make(path);
    await assertRefused(agent, reason, message.replace("PATH", path));
  });
}

for (const mode of [0o000, 0o600, 0o644, 0o666, 0o777]) {
  const shown = mode.toString(8).padStart(4, "0");
  // Whoever is not root can open no file of mode 0000.
  const skip = mode === 0 ? ROOT_ONLY : undefined;
  test(`a lock file of mode ${shown} becomes 0660, and keeps its bytes`, { skip }, async () => {
    await using agent = await startAgent();
    await using client = await agent.client("a");
    const path = lockPath(agent.dirs.lockDir, "deploy");
    writeFileSync(path, "old");
    chmodSync(path, mode);
    assert.ok((await client.request("claim", { name: "deploy" })).token);
    assert.equal(statSync(path).mode & 0o7777, 0o660);
    assert.equal(readFileSync(path, "utf8"), "old");
  });
}

test(
  "on a read-only filesystem a claim is refused with that",
  { skip: whyNoMounts() },
  async () => {
    await using made = await makeAgentDirs();
    const script = 'mount -t tmpfs -o ro tmpfs "$LOCKS"';
    await using agent = await startAgentWithMounts(script, { dirs: made.dirs });
    const path = lockPath(made.dirs.lockDir, "deploy");
    const message = `Cannot create lock file ${path}: the filesystem is read-only`;
    await assertRefused(agent, "read-only-filesystem", message, "same");
  },
);

test("on a full filesystem a claim is refused with that, and files that exist still work", {
  skip: whyNoMounts(),
}, async () => {
  await using made = await makeAgentDirs();
  const script = 'mount -t tmpfs -o nr_inodes=2 tmpfs "$LOCKS"; : > "$LOCKS/session-lock-there"';
  await using agent = await startAgentWithMounts(script, { dirs: made.dirs });
  const path = lockPath(made.dirs.lockDir, "deploy");
  const message = `Cannot create lock file ${path}: the filesystem has no room or no inodes left`;
  await assertRefused(agent, "no-space", message, "same");
  await using client = await agent.client("a");
  assert.ok((await client.request("claim", { name: "there" })).token);
});

test("a lock folder that is no tmpfs is refused at the start with 92", async (t) => {
  await using made = await makeAgentDirs();
  await using folder = await makeTempDir("disk");
  if (statfsSync(folder.path).type === 0x01021994) return t.skip("/tmp is a tmpfs here");
  const dirs = { ...made.dirs, lockDir: folder.path };
  for (const args of [["serve"], ["run", "deploy", "true"]]) {
    const { code, stderr } = await runCommand(dirs, args);
    assert.equal(code, 92);
    const type = "\\(filesystem type 0x[0-9a-f]+\\)";
    assert.match(stderr, new RegExp(`lock file ${folder.path}: it is no local tmpfs ${type}`));
  }
});

test("a lock folder in which others may rename is refused at the start with 92", async () => {
  await using made = await makeAgentDirs();
  chmodSync(made.dirs.lockDir, 0o777);
  const { code, stderr } = await runCommand(made.dirs, ["serve"]);
  assert.equal(code, 92);
  assert.match(stderr, /: others can write to it and it has no sticky bit$/m);
});

test("a runtime or state folder that others reach into is refused at the start", async () => {
  for (const folder of ["runtimeDir", "stateDir"] as const) {
    await using made = await makeAgentDirs();
    await using elsewhere = await makeTempDir("link");
    const link = join(elsewhere.path, "link");
    symlinkSync(made.dirs[folder], link);
    const linked = await runCommand({ ...made.dirs, [folder]: link }, ["serve"]);
    assert.equal(linked.code, 125);
    assert.match(
      linked.stderr,
      new RegExp(`Cannot use folder ${link}: it is no folder or a symlink`),
    );
    chmodSync(made.dirs[folder], 0o777);
    const open = await runCommand(made.dirs, ["serve"]);
    assert.equal(open.code, 125);
    assert.match(open.stderr, /Cannot use folder .*: every user can write to it/);
  }
});

/** The claim fails with this, holds nothing, and another name can be claimed after it. */
async function assertRefused(
  agent: AgentProcess,
  reason: string,
  message: string,
  otherFails?: "same",
): Promise<void> {
  await using client = await agent.client("a");
  for (const waitMs of [0, 60_000]) {
    await assert.rejects(client.request("claim", { name: "deploy", waitMs }), (error: RpcError) => {
      assert.equal(error.data.code, "lock-file");
      assert.equal(error.data.reason, reason);
      assert.equal(error.data.path, lockPath(agent.dirs.lockDir, "deploy"));
      assert.equal(error.message, message);
      return true;
    });
  }
  assert.deepEqual(processesWithLockIn(agent.dirs.lockDir), []);
  if (otherFails === undefined) {
    assert.ok((await client.request("claim", { name: "other" })).token);
  }
}
