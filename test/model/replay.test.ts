import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { unlinkSync } from "node:fs";
import { test } from "node:test";
import type { Patch } from "../support/agent_build.ts";
import { builtHolder, dirArgs, makeAgentDirs, whyNoAgent } from "../support/agent_process.ts";
import { childExit } from "../support/child.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { freeze, killAndConfirm, processesWithLockIn, signalPid } from "../support/processes.ts";
import { connectRpc } from "../support/rpc_client.ts";
import { lockPath, shellLock } from "../support/shell_lock.ts";
import {
  becomesFree,
  CLAIM,
  type Flavour,
  flavour,
  isFreeForShell,
  LONG_MS,
  NAME,
  untilLocked,
} from "./replay_support.ts";
import { VARIANTS } from "./variants.ts";

/**
 * A counterexample of the model as events for a real agent. It says how the promise was broken, or
 * nothing when it was kept.
 */
interface Replay {
  /** Number of the variant. */
  missing: number;
  /** What it takes to have the defence missing; none: the defence is in machine code. */
  patches?: Patch[];
  /** Changes that both agents have: a point to be killed at, a fault of the host. */
  fault?: Patch[];
  events: (agent: Flavour, isBroken: boolean) => Promise<string | undefined>;
}

/** The folder cannot be watched, as where inotify(7) has nothing left: only a look tells of a replaced file. */
const UNWATCHED: Patch = {
  file: "agent/lock_dir_watch.ts",
  find: "    if (this.#watcher !== undefined) return;\n",
  replace: `    return this.#fail(new Error("no watches are left"));\n`,
};

/** Time after which what never comes is taken not to come; only where it must not. */
const NEVER_MS = 1_500;

const REPLAYS: Replay[] = [
  {
    missing: 2,
    patches: [{
      file: "agent/kernel_claim.ts",
      find: `return { kind: "locked", file, holder };`,
      replace: `file.close();\nreturn { kind: "locked", file, holder };`,
    }],
    async events({ start }) {
      await using agent = await start();
      await using a = await agent.client("a");
      const { holderPid } = await a.request("claim", CLAIM);
      // The agent cannot start another holder: its own descriptor is all there is.
      await freeze(agent.pid);
      await killAndConfirm(holderPid as number);
      const isFree = await isFreeForShell(agent.dirs);
      signalPid(agent.pid, "SIGCONT");
      if (isFree) return "the shell protocol got the lock when the holder was killed";
      await agent.events.waitFor(({ event }) => event === "holder-replaced");
    },
  },
  {
    missing: 3,
    patches: [{
      file: "agent/kernel_claim.ts",
      find: "!claim.isSettled && isStillThere(file)",
      replace: "!claim.isSettled",
    }],
    async events({ start }) {
      await using agent = await start();
      await using a = await agent.client("a");
      const { lockDir } = agent.dirs;
      const { waiterPid, blocker, claim } = await waitBehindFlock(agent, a);
      await freeze(agent.pid);
      unlinkSync(lockPath(lockDir, NAME));
      const shell = await shellLock(lockDir, NAME);
      assert.equal(shell.kind, "locked");
      await blocker.end();
      await untilLocked(waiterPid);
      signalPid(agent.pid, "SIGCONT");
      let isGranted = false;
      claim.then(() => isGranted = true, () => {});
      // Either it is granted what the path no longer leads to, or its next holder waits behind the shell.
      const { holderPid, shellPid } =
        (shell as { lock: { holderPid: number; shellPid: number } }).lock;
      const known = [waiterPid, holderPid, shellPid];
      const waitsAnew = () => processesWithLockIn(lockDir).some((pid) => !known.includes(pid));
      await until(() => isGranted || waitsAnew(), { what: "an answer or a new waiter" });
      const wasGranted = isGranted;
      await (shell as { lock: AsyncDisposable }).lock[Symbol.asyncDispose]();
      if (wasGranted) return "a claim was granted on a file that was no longer there";
      await claim;
    },
  },
  {
    missing: 5,
    async events({ start }) {
      await using agent = await start();
      await using a = await agent.client("a");
      const { blocker, claim } = await waitBehindFlock(agent, a);
      claim.catch(() => {});
      await agent.kill();
      await blocker.end();
      if (!await becomesFree(agent.dirs)) return "a waiter became a lock that nobody owns";
    },
  },
  {
    missing: 6,
    patches: [{
      file: "agent/kernel_claim.ts",
      find: "wait: claim.waitMs > 0, tied: true",
      replace: "wait: claim.waitMs > 0, tied: false",
    }],
    async events({ start }, isBroken) {
      await using agent = await start();
      await using a = await agent.client("a");
      const { waiterPid, blocker, claim } = await waitBehindFlock(agent, a);
      claim.catch(() => {});
      await freeze(agent.pid);
      await blocker.end();
      await untilLocked(waiterPid);
      await agent.kill();
      const isFree = await becomesFree(agent.dirs, isBroken ? NEVER_MS : LONG_MS);
      if (!isFree) return "a lock without a record outlived its agent";
    },
  },
  {
    missing: 7,
    patches: [{
      file: "agent/token_store.ts",
      find: "const token = (last ?? this.#readReserved() ?? Date.now()) + 1;",
      replace: "const token = (last === 0 ? 0 : this.#given) + 1; this.#given = token;",
    }, {
      file: "agent/token_store.ts",
      find: "  #reserved = 0;",
      replace: "  #reserved = 0;\n  #given = 0;",
    }],
    async events({ start }) {
      await using made = await makeAgentDirs();
      const tokens: number[] = [];
      for (let life = 0; life < 2; life++) {
        const agent = await start({ dirs: made.dirs });
        await using a = await agent.client(`life-${life}`);
        tokens.push((await a.request<{ token: number }>("claim", CLAIM)).token);
        await a.request("release", { name: NAME });
        await agent.kill();
      }
      if (!(tokens[1]! > tokens[0]!)) return `token ${tokens[1]} came after ${tokens[0]}`;
    },
  },
  {
    missing: 8,
    patches: [{
      file: "agent/lock_file_copy.ts",
      find: "import { readFileSync, statSync } from",
      replace: "import { openSync, readFileSync, statSync } from",
    }, {
      file: "agent/lock_file_copy.ts",
      find: "copyDescriptor(pidfd, LOCK_FD)",
      replace: `openSync(path, "r")`,
    }],
    async events({ start }) {
      await using made = await makeAgentDirs();
      const first = await start({ dirs: made.dirs });
      await using a = await first.client("a");
      const { holderPid } = await a.request("claim", CLAIM);
      await first.kill();
      await using second = await start({ dirs: made.dirs });
      await second.events.waitFor(({ event }) => event === "lock-adopted");
      await freeze(second.pid);
      await killAndConfirm(holderPid as number);
      const isFree = await isFreeForShell(made.dirs);
      signalPid(second.pid, "SIGCONT");
      if (isFree) return "the shell protocol got an adopted lock when its holder was killed";
    },
  },
  {
    missing: 9,
    patches: [{
      file: "agent/run_file.ts",
      find: "flock(fd, LOCK_EX | LOCK_NB)",
      replace: "true",
    }, {
      file: "agent/adoption.ts",
      find: "!isAlive(agent)",
      replace: "agent.pid > 1",
    }],
    async events({ argv, start }, isBroken) {
      await using older = await start();
      const { dirs } = older;
      await using a = await older.client("a");
      await a.request("claim", CLAIM);
      await freeze(older.pid);
      if (!isBroken) {
        // The older one's socket would still accept, so the end of the second one is waited for.
        const [program, ...args] = [...argv, "serve", ...dirArgs(dirs), "--holder", builtHolder()];
        const { code } = await childExit(spawn(program!, args, { stdio: "ignore" }));
        signalPid(older.pid, "SIGCONT");
        if (code === 0) return "a second agent ran beside the first";
        await a.request("ping");
        if (await isFreeForShell(dirs)) return "the lock was freed";
        return;
      }
      unlinkSync(dirs.socket);
      await using newer = await start({ dirs });
      await using joining = await newer.client("a");
      const { joined } = await joining.request("claim", CLAIM);
      assert.equal(joined, true);
      // Else it might start another holder, and take the lock back before anybody looks.
      await freeze(newer.pid);
      signalPid(older.pid, "SIGCONT");
      await a.request("release", { name: NAME });
      const isFree = await isFreeForShell(dirs);
      signalPid(newer.pid, "SIGCONT");
      if (isFree) return "an older generation freed the lock of a newer one";
    },
  },
  {
    missing: 10,
    fault: [UNWATCHED],
    patches: [{
      file: "agent/lock_table.ts",
      find: "        this.#checkEntry(entry);\n",
      replace: "",
    }],
    async events({ start }) {
      await using agent = await start();
      await using a = await agent.client("a");
      await a.request("claim", CLAIM);
      await agent.events.waitFor(({ event }) => event === "watch-failed");
      unlinkSync(lockPath(agent.dirs.lockDir, NAME));
      await using b = await agent.client("b");
      await b.request("claim", { ...CLAIM, waitMs: LONG_MS });
      await agent.events.waitFor(({ event, owner }) => event === "lock-granted" && owner === "b");
      const isTold = agent.events.all.some(({ event }) => event === "lock-lost");
      if (!isTold) return "a lock was granted beside one whose session was not told of its loss";
      assert.equal((await a.notification("lost")).params.reason, "lock-file-replaced");
    },
  },
  {
    missing: 11,
    fault: [UNWATCHED],
    patches: [{
      file: "agent/connection.ts",
      find: "    this.#parts.table.checkFilesOf(session);\n    return session;",
      replace: "    return session;",
    }],
    async events({ start }) {
      await using made = await makeAgentDirs();
      const first = await start({ dirs: made.dirs });
      const a = await connectRpc(made.dirs.socket);
      const hello = { protocol: 1, client: "test", owner: "a" };
      const { session: { secret } } = await a.request<Hello>("hello", hello);
      await a.request("claim", CLAIM);
      await first.kill();
      await using second = await start({ dirs: made.dirs });
      await second.events.waitFor(({ event }) => event === "watch-failed");
      unlinkSync(lockPath(made.dirs.lockDir, NAME));
      const shell = await shellLock(made.dirs.lockDir, NAME);
      assert.equal(shell.kind, "locked");
      await using again = await connectRpc(made.dirs.socket);
      const { locks } = await again.request<Hello>("hello", { protocol: 1, resume: secret });
      await (shell as { lock: AsyncDisposable }).lock[Symbol.asyncDispose]();
      if (locks.length > 0) return "a session was told that it has a lock that the shell has";
    },
  },
  {
    missing: 12,
    // kill -9 when the new holder has answered.
    fault: [{
      file: "agent/new_holder.ts",
      find: `    crashPoint("holder.replaced");\n`,
      replace: `      process.kill(process.pid, "SIGKILL");\n`,
    }],
    patches: [{
      file: "agent/lock_table.ts",
      find: "        if (!isOver(ownership)) this.#record(entry);\n",
      replace: "",
    }],
    async events({ start }) {
      await using made = await makeAgentDirs();
      const first = await start({ dirs: made.dirs });
      const a = await first.client("a");
      const { holderPid } = await a.request("claim", CLAIM);
      signalPid(holderPid as number, "SIGKILL");
      await first.exit;
      await using second = await start({ dirs: made.dirs });
      await using watcher = await second.client("w");
      const { locks } = await watcher.request<Status>("status", { name: NAME });
      if (locks[0]!.holders[0]?.kind !== "own") {
        return "the next agent does not know whose lock it is";
      }
    },
  },
];

for (const { missing, patches, fault = [], events } of REPLAYS) {
  const { what, violated } = VARIANTS.find((variant) => variant.missing === missing)!;
  test(`replay ${missing}: with ${what} the promise is kept`, { skip: whyNoAgent() }, async () => {
    const agent = await flavour(`replay-${missing}`, fault);
    assert.equal(await events(agent, false), undefined);
  });
  if (patches === undefined) continue;
  test(`replay ${missing}: without ${what} it is broken (${violated})`, {
    skip: whyNoAgent(),
  }, async (t) => {
    const agent = await flavour(`replay-${missing}-broken`, [...fault, ...patches]);
    const how = await events(agent, true);
    assert.notEqual(how, undefined, "the replay does not bite");
    t.diagnostic(how!);
  });
}

interface Status {
  locks: { holders: { kind: string }[] }[];
}

interface Hello {
  session: { secret: string };
  locks: unknown[];
}

/** A claim that waits in the kernel's queue behind a flock(1). */
async function waitBehindFlock(
  agent: Awaited<ReturnType<Flavour["start"]>>,
  client: Awaited<ReturnType<typeof connectRpc>>,
) {
  const { lockDir } = agent.dirs;
  const outcome = await flock(lockPath(lockDir, NAME));
  assert.ok(outcome.kind === "held");
  const claim = client.request("claim", { ...CLAIM, waitMs: LONG_MS }, LONG_MS);
  await client.notification("queued");
  const [waiterPid] = processesWithLockIn(lockDir);
  return { claim, blocker: outcome.holder, waiterPid: waiterPid! };
}
