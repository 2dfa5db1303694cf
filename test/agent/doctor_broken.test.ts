import {
  chmodSync,
  chownSync,
  copyFileSync,
  linkSync,
  mkdirSync,
  rmSync,
  symlinkSync,
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
import { whyNoMounts, withMounts, withShell } from "../support/wrapped_agent.ts";
import { requires } from "../support/requires.ts";
import { lockPath } from "../support/shell_lock.ts";
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

test("doctor finds a full and a read-only state folder", { skip: whyNoMounts() }, async () => {
  await using made = await makeAgentDirs();
  const { dirs } = made;
  const full = 'mount -t tmpfs -o nr_inodes=1,mode=0700 tmpfs "$STATE"';
  const report = await withMounts(full, dirs, () => examine(dirs));
  assertFound(report, "token-counter", "fail", /the filesystem of .* is full$/);
  const readOnly = 'mount -t tmpfs -o ro,mode=0700 tmpfs "$STATE"';
  const other = await withMounts(readOnly, dirs, () => examine(dirs));
  assertFound(other, "token-counter", "fail", /the filesystem of .* is read-only$/);
});

test("doctor finds a limit of open files that leaves no descriptor 999", async () => {
  await using made = await makeAgentDirs();
  const report = await withShell("ulimit -n 900", () => examine(made.dirs));
  assertFound(report, "open-files", "fail", /^Limit of open files is 900: holders need/);
  assertFound(report, "probe-lock", "fail", /limit of open files is below 1000$/);
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
