import assert from "node:assert/strict";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  linkSync,
  mkdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import {
  type AgentDirs,
  builtHolder,
  makeAgentDirs,
  startAgent,
} from "../support/agent_process.ts";
import { flock } from "../support/flock.ts";
import { whyNoMounts, withMounts } from "../support/mounts.ts";
import { killAndConfirm } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { lockPath, shellLock } from "../support/shell_lock.ts";
import { assertFound, examine } from "./doctor_findings.ts";

interface Break {
  what: string;
  make: (dirs: AgentDirs, path: string) => void;
  id: string;
  state: "warn" | "fail";
  says: RegExp;
  skip?: string;
}

const FILE_BREAKS: Break[] = [
  {
    what: "a symlink",
    make: (_, path) => symlinkSync("/etc/passwd", path),
    id: "lock-file",
    state: "fail",
    says: /session-lock-x is a symlink: every claim of it is refused$/,
  },
  {
    what: "a hard link",
    make: (dirs, path) => {
      writeFileSync(path, "");
      linkSync(path, join(dirs.lockDir, "other"));
    },
    id: "lock-file",
    state: "fail",
    says: /has 2 links: every claim/,
  },
  {
    what: "a folder",
    make: (_, path) => mkdirSync(path),
    id: "lock-file",
    state: "fail",
    says: /is no regular file: every claim/,
  },
  {
    what: "nobody's file",
    make: (_, path) => {
      writeFileSync(path, "");
      chownSync(path, 4711, 4711);
    },
    id: "lock-file",
    state: "fail",
    says: /belongs to uid 4711, which no user has: claims of it are refused$/,
    skip: requires("root"),
  },
  {
    what: "a wide mode",
    make: (_, path) => {
      writeFileSync(path, "");
      chmodSync(path, 0o666);
    },
    id: "lock-file",
    state: "warn",
    says: /has mode 0666: any user can lock it$/,
  },
  {
    what: "no lock's name",
    make: (dirs) => writeFileSync(join(dirs.lockDir, "session-lock-.x"), ""),
    id: "lock-file",
    state: "warn",
    says: /session-lock-\.x names no lock: a lock name is /,
  },
  {
    what: "a missing lock folder",
    make: (dirs) => rmSync(dirs.lockDir, { recursive: true }),
    id: "lock-folder",
    state: "fail",
    says: /: ENOENT/,
  },
  {
    what: "a lock folder without sticky bit",
    make: (dirs) => chmodSync(dirs.lockDir, 0o777),
    id: "lock-folder",
    state: "fail",
    says: /others can write to it and it has no sticky bit$/,
  },
  {
    what: "a damaged token mark",
    make: (dirs) => writeFileSync(join(dirs.stateDir, "token-reserved"), "?"),
    id: "token-counter",
    state: "fail",
    says: /token-reserved is damaged, so no lock is granted$/,
  },
  {
    what: "an open state folder",
    make: (dirs) => chmodSync(dirs.stateDir, 0o777),
    id: "token-counter",
    state: "fail",
    says: /is writable for everybody: tokens prove nothing$/,
  },
];

for (const { what, make, id, state, says, skip } of FILE_BREAKS) {
  test(`doctor finds ${what}`, { skip }, async () => {
    await using made = await makeAgentDirs();
    make(made.dirs, lockPath(made.dirs.lockDir, "x"));
    const report = await examine(made.dirs);
    assertFound(report, id, state, says);
  });
}

test("doctor finds a full and a read-only lock folder", { skip: whyNoMounts() }, async () => {
  await using made = await makeAgentDirs();
  const { dirs } = made;
  const full = 'mount -t tmpfs -o nr_inodes=1,mode=1777 tmpfs "$LOCKS"';
  const report = await withMounts(full, dirs, () => examine(dirs));
  assertFound(report, "lock-folder-room", "fail", /and 0 inodes left: no new lock file fits$/);
  const readOnly = await withMounts(
    'mount -t tmpfs -o ro tmpfs "$LOCKS"',
    dirs,
    () => examine(dirs),
  );
  assertFound(readOnly, "lock-folder", "fail", /its filesystem is read-only$/);
});

test("doctor finds a holder that was changed or cannot be started", async () => {
  await using made = await makeAgentDirs();
  const holder = join(made.dirs.runtimeDir, "holder");
  copyFileSync(builtHolder(), holder);
  chmodSync(holder, 0o644);
  assertFound(await examine(made.dirs, { holder }), "holder-file", "fail", / is not executable$/);
  chmodSync(holder, 0o755);
  writeFileSync(holder, "#!/bin/sh\nexec sleep 1000\n");
  const report = await examine(made.dirs, { holder });
  assertFound(report, "holder-file", "fail", / is not the one of this program$/);
  assertFound(report, "probe-lock", "fail", /^Probe lock /);
});

test("doctor finds a socket that every user can open, and one that does not answer", async () => {
  await using agent = await startAgent();
  await agent.events.waitFor(({ event }) => event === "agent-started");
  chmodSync(agent.dirs.socket, 0o666);
  assertFound(
    await examine(agent.dirs),
    "agent-socket",
    "fail",
    /every user can claim and release$/,
  );
  await using made = await makeAgentDirs();
  const deaf = createServer().listen(made.dirs.socket);
  try {
    assertFound(await examine(made.dirs), "agent", "fail", /does not answer: /);
  } finally {
    deaf.close();
  }
});

test("doctor finds a lock of the shell protocol that has outlived its session", async () => {
  await using agent = await startAgent();
  const outcome = await shellLock(agent.dirs.lockDir, "x");
  assert.ok(outcome.kind === "locked");
  const { lock } = outcome;
  try {
    const during = await examine(agent.dirs);
    assertFound(during, "holder", "ok", /^1 lock is held: somebody answers for each$/);
    await lock.endShell();
    const after = await examine(agent.dirs);
    const says = new RegExp(`^Lock "x" has leaked: its holder \\(pid ${lock.holderPid}\\)`);
    assertFound(after, "leaked-holder", "warn", says);
  } finally {
    await killAndConfirm(lock.holderPid);
  }
});

test("doctor names a holder that no record explains", async () => {
  await using made = await makeAgentDirs();
  const outcome = await flock(lockPath(made.dirs.lockDir, "x"));
  assert.ok(outcome.kind === "held");
  const says = new RegExp(`^Lock "x" is held by pid ${outcome.holder.pid} \\(flock .*no record`);
  assertFound(await examine(made.dirs), "holder", "warn", says);
  await outcome.holder.end();
});

for (const how of ["removed", "replaced"] as const) {
  test(`doctor finds a holder whose lock file was ${how}`, async () => {
    await using made = await makeAgentDirs();
    const outcome = await shellLock(made.dirs.lockDir, "x");
    assert.ok(outcome.kind === "locked");
    const path = lockPath(made.dirs.lockDir, "x");
    if (how === "removed") unlinkSync(path);
    else {
      writeFileSync(`${path}.new`, "");
      renameSync(`${path}.new`, path);
    }
    const says = new RegExp(`was ${how} under its holder \\(pid ${outcome.lock.holderPid}, `);
    try {
      assertFound(await examine(made.dirs), "lost-lock-file", "fail", says);
    } finally {
      await outcome.lock.end();
    }
  });
}
