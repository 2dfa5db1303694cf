import type { Patch } from "../support/agent_build.ts";
import type { Verdict } from "./checker.ts";
import type { Crowd, RunOptions } from "./run_history.ts";
import type { Ending } from "./ssh_worker.ts";

/** An agent that is wrong on purpose, and what shows it. */
export interface BrokenCase {
  /** What is wrong, after "an agent that". */
  name: string;
  patches: Patch[];
  /** Changes that are no bug: they let the fault matter more often. */
  setting?: Patch[];
  /** Faults that the case needs; those whose defence it lacks. */
  faults?: Record<string, number>;
  crowd?: Partial<Crowd>;
  more?: Partial<RunOptions>;
  /** How a controller's session ends. */
  endings?: Ending[];
  /** What shows it beside a broken rule, a leak, or a run that hangs. */
  isSeen?: (verdict: Verdict) => boolean;
  /** Only root can show it. */
  needsRoot?: true;
}

const table = "agent/lock_table.ts";
const kernelClaim = "agent/kernel_claim.ts";
const entry = "agent/lock_entry.ts";
const session = "agent/session.ts";
const leftovers = "agent/leftovers.ts";
const cleanUp = "agent/clean_up.ts";
const tokens = "agent/token_store.ts";
const silence = "agent/silence.ts";

/** Programs that are killed and leave something behind, beside others that want the lock. */
const runs = { run: 3, shell: 1 };
/** The same over SSH. */
const controllers = { library: 3, shell: 1 };
const foreigners = { shell: 3, flock: 1 };
/** So many that one always waits in the kernel's queue of the only lock. */
const queued = { shell: 1, flock: 4, localProcesses: 1 };

/** For locks that stay taken: once the only one does, the run has nothing more to do. */
const stalling = { locks: 1, pauseUs: 20_000, endsAtStall: true };
/** For sessions that end by nothing but their silence. */
const lasting = { ...stalling, endingShare: 100 };

function patch(file: string, find: string, replace: string): Patch {
  return { file, find, replace };
}

const importFlock = patch(
  table,
  'import { performance } from "node:perf_hooks";',
  'import { performance } from "node:perf_hooks"; import { flock, LOCK_UN } from "./libc.ts";',
);

const noCleanUp = patch(
  session,
  'if (policy === "kill" || policy === "drain") {',
  "if (policy === undefined) {",
);

const noSilence = patch(
  session,
  "  endForSilence(): void {\n",
  "  endForSilence(): void {\n    if (this.id !== '') return;\n",
);

/** Bugs that somebody might make. */
export const bugs: BrokenCase[] = [
  {
    name: "skips the clean-up",
    patches: [noCleanUp],
    crowd: runs,
    endings: ["controller-killed"],
    more: { endingShare: 80 },
  },
  {
    name: "gives a token twice now and then",
    patches: [
      patch(tokens, "?? Date.now()) + 1;", "?? Date.now()) + (Math.random() < 0.1 ? 0 : 1);"),
    ],
  },
  {
    name: "counts tokens in memory",
    patches: [patch(
      tokens,
      "const last = this.#readLast(fd);",
      "const last = this.#reserved++; if (Date.now() < 0) this.#readLast(fd);",
    )],
    faults: { "agent-killed": 1 },
    more: { faultPauseMs: 1000 },
  },
  {
    name: "releases at the end of a connection, whatever lives on",
    patches: [patch(
      session,
      "    this.awaitResume(detail);\n  }",
      "    this.#parts.table.finishEnd(this, { reason: 'session-ended', detail });\n  }",
    )],
    crowd: controllers,
    endings: ["hung-up", "controller-killed"],
  },
  {
    name: "does not look whether the locked file is still the lock's",
    patches: [patch(kernelClaim, "!claim.isSettled && isStillThere(file)", "!claim.isSettled")],
    faults: { "lock-file-unlinked": 1 },
    // A long time between locking and looking, and others who take the new file meanwhile.
    setting: [patch(
      kernelClaim,
      "      onWaiting,\n    });",
      "      onWaiting,\n    });\n" +
        '    if (outcome.kind === "locked") await new Promise((then) => setTimeout(then, 3000));',
    )],
    crowd: { shell: 3 },
    more: {
      ...{ locks: 1, unlinkedLocks: 1, waiting: 0, faultPauseMs: 4000 },
      ...{ toolHoldMs: 1000, pauseUs: 50_000 },
    },
  },
  {
    name: "keeps no descriptor of what its holder has locked",
    patches: [
      importFlock,
      patch(table, 'log("holder-died",', 'flock(file.fd, LOCK_UN); log("holder-died",'),
    ],
    faults: { "holder-killed": 1 },
    crowd: queued,
    more: { locks: 1, holdMs: 1000, faultPauseMs: 50 },
  },
  {
    name: "does not tie a holder to itself until its record is written",
    patches: [
      patch(kernelClaim, "tied: true };", "tied: false };"),
      patch(
        table,
        "const token = this.#parts.tokens.next();",
        "for (const end = performance.now() + 8; performance.now() < end;); " +
          "const token = this.#parts.tokens.next();",
      ),
    ],
    faults: { "agent-killed": 1 },
    more: { faultPauseMs: 1000, ...stalling },
  },
  {
    name: "writes no record before it lets its holder go",
    patches: [patch(
      table,
      'const error = this.#record(entry);\n    crashPoint("grant.recorded");',
      'const error = undefined as Error | undefined;\n    crashPoint("grant.recorded");',
    )],
    faults: { "agent-killed": 1 },
    more: { holdMs: 300, faultPauseMs: 1000, ...stalling },
  },
  {
    name: "adopts a lock by opening its path anew",
    patches: [
      patch(
        "agent/lock_file_copy.ts",
        "const fd = copyDescriptor(pidfd, LOCK_FD);",
        "copyDescriptor; const fd = openSync(path, 'r');",
      ),
      patch(
        "agent/lock_file_copy.ts",
        'import { readFileSync, statSync } from "node:fs";',
        'import { openSync, readFileSync, statSync } from "node:fs";',
      ),
    ],
    faults: { "agent-restarted": 1, "holder-killed": 2 },
    crowd: queued,
    more: { locks: 1, holdMs: 2500, faultPauseMs: 100 },
  },
  {
    name: "lets an owner of another user join",
    patches: [patch(entry, "uid === claimant.peer.uid && isShared", "isShared")],
    crowd: { strangers: true },
    more: { holdMs: 100, owners: 1 },
    needsRoot: true,
  },
  {
    name: "lets a claim join a session that is ending",
    patches: [patch(
      entry,
      'grants.some((grant) => grant.claimant.state !== "ending")',
      "grants.length > 0",
    )],
    crowd: { library: 3 },
    endings: ["sshd-killed"],
    more: { owners: 1, sharesControllers: true, locks: 1, endingShare: 60 },
  },
  {
    name: "grants a shared lock beside an exclusive one",
    patches: [
      patch(entry, "ownership.shared && claim.shared", "ownership.shared || claim.shared"),
      patch(kernelClaim, "{ name, shared, wait:", "{ name, shared: true, wait:"),
    ],
    more: { holdMs: 100 },
  },
  {
    name: "unlocks before it clears away what is left",
    patches: [
      importFlock,
      patch(
        table,
        "this.#notifyLoss(grant, cause.reason, cause.detail);",
        "this.#notifyLoss(grant, cause.reason, cause.detail); flock(grant.ownership.file.fd, LOCK_UN);",
      ),
    ],
    crowd: { ...runs, ...foreigners },
    endings: ["controller-killed"],
  },
  {
    name: "grants before the holder has answered",
    patches: [patch(
      "agent/holder.ts",
      "const outcome = await holder.send(order, fd);",
      'void holder.send(order, fd); const outcome = { kind: "locked" } as OrderOutcome;',
    )],
    crowd: foreigners,
  },
  {
    name: "forgets the order of its waiters",
    patches: [patch(entry, "place < 0 ? queue.length : place", "0 * place")],
    more: { waiting: 90, holdMs: 100 },
  },
  {
    name: "sends TERM and never KILL",
    patches: [
      patch(
        cleanUp,
        'if (isOverdue) send(["SIGKILL"]);',
        "if (isOverdue) return isFresh;",
      ),
    ],
    crowd: runs,
    endings: ["controller-killed"],
    more: { ...stalling, endingShare: 80 },
  },
  {
    name: "searches for leftovers only once",
    patches: [patch(
      cleanUp,
      "for (let empty = 0; empty < EMPTY_SEARCHES;) {",
      "for (let once = 0, empty = 0; once < 1; once += 1 + 0 * empty + 0 * EMPTY_SEARCHES) {",
    )],
    crowd: runs,
    endings: ["controller-killed"],
    more: { endingShare: 80 },
  },
  {
    name: "takes stopped processes for dead",
    patches: [patch(leftovers, "!isDead(stat) &&", '!isDead(stat) && stat.state !== "T" &&')],
    crowd: runs,
    endings: ["controller-killed"],
    more: { endingShare: 80, enough: { "run-killed": 12 } },
  },
  {
    name: "looks only at descendants",
    patches: [patch(
      leftovers,
      "variable === undefined ? [] : scan",
      "variable === undefined || uid >= 0 ? [] : scan",
    )],
    crowd: runs,
    endings: ["controller-killed"],
    more: { endingShare: 80 },
  },
  {
    name: "counts an ownership's end before its last session",
    patches: [patch(
      table,
      "const isLast = ownership.grants.length === 0;",
      "const isLast = ownership.grants.length <= 1;",
    )],
    more: { owners: 1, holdMs: 100, waiting: 5 },
  },
];

/** A bug of the holder. */
export const holderBug: BrokenCase = {
  name: "has a holder that does not call flock(2)",
  patches: [],
  crowd: foreigners,
};

/** For each fault that no bug above is about: an agent that lacks what it has against that fault. */
export const defences: BrokenCase[] = [
  {
    name: "controller killed: nobody looks at the end of a connection",
    patches: [patch(
      session,
      "this.#parts.table.cancelClaims(this, detail);",
      'if (detail !== "") return; this.#parts.table.cancelClaims(this, detail);',
    )],
    faults: { "controller-killed": 1 },
    more: { holdMs: 300, ...stalling },
  },
  {
    name: "controller stopped: silence means nothing",
    patches: [noSilence],
    crowd: { library: 3 },
    endings: ["controller-stopped"],
    more: { ...lasting, staysCut: true },
  },
  {
    name: "controller cut off, partition: silence means nothing",
    patches: [noSilence],
    crowd: { library: 3 },
    endings: ["cut-off"],
    more: { ...lasting, staysCut: true },
    needsRoot: true,
  },
  {
    name: "packets lost: the first heartbeat that is late ends a session",
    patches: [
      patch(
        silence,
        "const deadline = session.lastHeardAt + session.silenceMs;",
        "const deadline = session.lastHeardAt + session.silenceMs * 0.26;",
      ),
      patch(
        silence,
        "this.#fireBy(session.lastHeardAt + session.silenceMs);",
        "this.#fireBy(session.lastHeardAt + session.silenceMs * 0.26);",
      ),
    ],
    faults: { "packets-lost": 1 },
    crowd: { library: 3 },
    more: { holdMs: 3000 },
    isSeen: ({ losses }) => Object.keys(losses).length > 0,
    needsRoot: true,
  },
  {
    name: "sshd killed: nothing is cleared away",
    patches: [noCleanUp],
    crowd: controllers,
    endings: ["sshd-killed"],
  },
  {
    name: "sshd stopped: silence means nothing",
    patches: [noSilence],
    crowd: { library: 3 },
    endings: ["sshd-stopped"],
    more: lasting,
  },
  {
    name: "agent killed: locks are not taken over",
    patches: [patch(
      "agent/server.ts",
      "adoptLocks({ records,",
      "if (Date.now() < 0) adoptLocks({ records,",
    )],
    faults: { "agent-killed": 1 },
    more: { holdMs: 300, faultPauseMs: 1000, ...stalling },
  },
  {
    name: "agent restarted: it takes its holders with it",
    patches: [patch(
      "agent/server.ts",
      "    pool.close();\n",
      "    for (const pid of table.holderPids()) process.kill(pid, 'SIGKILL');\n    pool.close();\n",
    )],
    faults: { "agent-restarted": 1 },
    crowd: foreigners,
    more: { holdMs: 1000, faultPauseMs: 1000 },
  },
  {
    name: "agent stopped: an older generation goes on beside its successor",
    patches: [patch("agent/server.ts", "  await endOlderGenerations(runFile, log);\n", "")],
    faults: { "agent-superseded": 1 },
    // Held for long by sessions that live on: the older one ends them when their silence is over.
    crowd: { library: 3, localProcesses: 0 },
    more: { locks: 3, holdMs: 15_000, faultPauseMs: 3000 },
    isSeen: ({ losses }) => Object.keys(losses).length > 0,
  },
  {
    name: "holder killed: its lock is given up",
    patches: [patch("agent/new_holder.ts", "tries < MAX_TRIES &&", "tries < 0 * MAX_TRIES &&")],
    faults: { "holder-killed": 1 },
    more: { holdMs: 200, faultPauseMs: 50 },
    isSeen: ({ losses }) => (losses["holder-failed"] ?? 0) > 0,
  },
  {
    name: "waiting holder killed: its claim is given up",
    patches: [
      patch(
        "agent/holder.ts",
        "if (!mayRetry || holder.wasKilled)",
        "if (mayRetry || holder.wasKilled || outcome.kind !== 'failed')",
      ),
    ],
    faults: { "spare-holder-killed": 2, "holder-killed": 1 },
    more: { waiting: 80, holdMs: 50, faultPauseMs: 30 },
    isSeen: ({ answers }) => (answers["holder-failed"] ?? 0) > 0,
  },
  {
    name: "holder stopped: it is asked to end, and its end is to unlock",
    patches: [
      patch(kernelClaim, "  holder.kill();\n", '  process.kill(holder.pid, "SIGTERM");\n'),
      patch(kernelClaim, "  flock(file.fd, LOCK_UN);\n", ""),
    ],
    faults: { "holder-frozen": 1 },
    more: { holdMs: 100, ...stalling },
  },
  {
    name: "clock set forward: silence is measured by it",
    patches: [silence, session, "agent/connection.ts"].map((file) =>
      patch(
        file,
        'import { performance } from "node:perf_hooks";',
        "const performance = { now: () => Date.now() };",
      )
    ),
    faults: { "clock-forward": 1 },
    crowd: { library: 3 },
    more: { holdMs: 5000 },
    isSeen: ({ losses }) => Object.keys(losses).length > 0,
  },
  {
    name: "clock set back: tokens are times",
    patches: [
      patch(
        tokens,
        "(last ?? this.#readReserved() ?? Date.now()) + 1;",
        "Date.now() + 0 * (last ?? 0);",
      ),
    ],
    faults: { "clock-back": 1, "clock-forward": 1 },
  },
  {
    name: "out of bytes: tokens are given beyond what could be reserved",
    // Each start of the agent is a reboot to the counter, and reservations are small.
    setting: [
      patch(tokens, "readonly #bootId = readBootId();", "readonly #bootId = String(process.pid);"),
      patch(tokens, "const RESERVATION = 65_536;", "const RESERVATION = 20;"),
    ],
    patches: [patch(
      tokens,
      "this.#reserve(token + RESERVATION);",
      "try { this.#reserve(token + RESERVATION); } catch { this.#reserved = token + RESERVATION; }",
    )],
    faults: { "out-of-bytes": 1, "agent-killed": 1 },
    more: { faultPauseMs: 100 },
    needsRoot: true,
  },
  {
    name: "out of inodes: locks are granted without their record",
    patches: [
      patch(
        table,
        "if (error !== undefined && outlivesAgent) {",
        "if (error !== undefined && !outlivesAgent) {",
      ),
      // The copy that a holder keeps would make up for it.
      patch("agent/server.ts", "keepsCopies: true", "keepsCopies: false"),
    ],
    faults: { "out-of-inodes": 2, "agent-killed": 1 },
    more: { holdMs: 1000, faultPauseMs: 50, ...stalling },
    needsRoot: true,
  },
  {
    name: "descriptors used up: nobody counts them",
    patches: [
      patch(
        "agent/limits.ts",
        "this.#descriptors + descriptors > this.#maxDescriptors",
        "this.#descriptors < 0",
      ),
    ],
    faults: { "out-of-descriptors": 1 },
    more: { maxDescriptors: 1100 },
    isSeen: ({ answers }) =>
      ["holder-failed", "internal", "lock-file", "no-token"].some((code) =>
        (answers[code] ?? 0) > 0
      ),
  },
  {
    name: "lock file truncated: the last token is kept in it",
    patches: [
      patch(
        table,
        'import { performance } from "node:perf_hooks";',
        'import { performance } from "node:perf_hooks"; import * as fs from "node:fs";',
      ),
      patch(
        table,
        "const token = this.#parts.tokens.next();",
        'const token = Number(fs.readFileSync(file.path, "latin1")) + 1; ' +
          "fs.writeFileSync(file.path, String(token));",
      ),
    ],
    faults: { "lock-file-truncated": 1 },
    more: { locks: 1 },
  },
  {
    name: "lock file's mode changed: any change of it is taken for its loss",
    patches: [
      patch("agent/lock_dir_watch.ts", 'if (event !== "rename") return;', ""),
      patch(
        "agent/lock_file.ts",
        "return stat.ino === file.inode && stat.dev === file.device;",
        "return stat.ino === file.inode && (stat.mode & 0o777) === LOCK_FILE_MODE;",
      ),
    ],
    faults: { "lock-file-chmod": 1 },
    more: { holdMs: 200 },
    isSeen: ({ losses }) => (losses["lock-file-replaced"] ?? 0) > 0,
  },
];
