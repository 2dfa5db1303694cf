/**
 * The processes that belong to a session, found by the marks that a session leaves on them.
 *
 * What has left all marks (a systemd unit, or without PAM `env -u SSH_CONNECTION setsid`) has
 * detached on purpose and is not found.
 *
 * @module
 */

import process from "node:process";
import { NewProcesses } from "./new_processes.ts";
import { NextRun } from "./next_run.ts";
import { isDead, type ProcessId, type ProcessStat } from "./proc.ts";
import { ProcessScan, readAuditSession, readScope, SESSION_VARIABLE } from "./process_scan.ts";

export { SESSION_VARIABLE } from "./process_scan.ts";

// What a process calls itself must not write to the terminal of who looks at it.
// deno-lint-ignore no-control-regex
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/g;

/** What a session's processes can be known by. */
export interface SessionMarks {
  /** The process that the session ends with: its sshd, or the local program that claimed. */
  root: ProcessId;
  /** The user of the session. */
  uid: number;
  /**
   * A variable that the session's processes have in their environment. It is written by whoever runs
   * the process, so it is believed only for processes of the session's own user.
   */
  variable?: { name: string; value: string };
  /** The session's logind scope, as /proc/PID/cgroup shows it. */
  scope?: string;
  /** The session's audit session id. */
  auditSession?: number;
}

/** A process of a session. */
export interface Leftover extends ProcessId {
  /** Name of the executable, or what the process calls itself. */
  comm: string;
  /** One letter, as in `/proc/PID/stat`; `D` cannot be ended, only waited for. */
  state: string;
  /** Another session has it as well, or may: it is waited for, and not ended. */
  isShared: boolean;
  /** Whose it is does not show yet; it is shared as well. */
  isUnknown?: true;
}

/**
 * Hears of a process that a session has just started.
 *
 * @param leftover The process.
 * @param pidfd Stands for it; closed after the call.
 * @param line The process and those above it that are the session's.
 */
export type OnStarted = (leftover: Leftover, pidfd: number, line: Leftover[]) => void;

/** Another local session, as the search for one session's processes needs it. */
export interface OtherSession {
  /** What its processes are known by. */
  marks: SessionMarks;
  /** Whether it has a claim on what nothing but the root tells apart: it has a lock, and goes on. */
  isSharing: boolean;
}

/**
 * Reads the marks of a session while its root lives.
 *
 * @param root The process that the session ends with.
 * @param uid The user of the session.
 * @param variable The variable that marks its processes, where it is known already.
 */
export function readMarks(
  root: ProcessId,
  uid: number,
  variable?: { name: string; value: string },
): SessionMarks {
  return {
    root: { pid: root.pid, startTime: root.startTime },
    uid,
    variable,
    scope: readScope(root.pid),
    auditSession: readAuditSession(root.pid),
  };
}

/**
 * Searches for the processes of sessions, with one scan of /proc for all who search at the same time.
 *
 * A search is answered from a scan that began after it was asked for ({@linkcode NextRun}), and its
 * marks are looked at later still. So what a session did before it searched (signals sent, its sshd
 * seen dead) was done when the scan began, as if the scan were its own; and two searches of one
 * session, the second asked for when the first was answered, never share a scan.
 */
export class LeftoverSearch {
  readonly #scans: NextRun<{ scan: ProcessScan; spared: ReadonlySet<number> }>;
  readonly #sparedPids: () => ReadonlySet<number>;
  readonly #started = new NewProcesses();

  /**
   * @param sparedPids The pids of all holders: they belong to no session.
   */
  constructor(sparedPids: () => ReadonlySet<number>) {
    this.#sparedPids = sparedPids;
    this.#scans = new NextRun(async () => {
      const scan = await ProcessScan.read(sparedPids());
      // A holder that was started while the scan went on was read like any other process.
      return { scan, spared: sparedPids() };
    });
  }

  /**
   * The processes of a session that live; zombies are dead, and the root is not among them.
   *
   * @param marks What they are known by.
   * @param others The other local sessions, for one of kind `process`: asked for when the scan is over.
   */
  async find(
    marks: SessionMarks,
    others: () => Iterable<OtherSession> = () => [],
  ): Promise<Leftover[]> {
    const { scan, spared } = await this.#scans.ask();
    return findIn(scan, marks, others).filter(({ pid }) => !spared.has(pid));
  }

  /**
   * Tells of each process that the session starts within the next milliseconds, at once: when a search
   * of all is over, it may be gone.
   *
   * @param marks What the session's processes are known by.
   * @param onStarted Called for each, once or more.
   * @param others The other local sessions, for one of kind `process`.
   */
  async follow(
    marks: SessionMarks,
    onStarted: OnStarted,
    others: () => Iterable<OtherSession> = () => [],
  ): Promise<void> {
    await this.#started.follow((line, pid, pidfd) => {
      const found = findIn(line, marks, others);
      const leftover = found.find((leftover) => leftover.pid === pid);
      if (leftover === undefined) return "another's";
      if (leftover.isUnknown) return "unknown";
      if (this.#sparedPids().has(pid)) return "another's";
      onStarted(leftover, pidfd, found);
      return "own";
    });
  }
}

/** The processes of a session in a scan; holders may be among them. */
function findIn(
  scan: ProcessScan,
  marks: SessionMarks,
  others: () => Iterable<OtherSession>,
): Leftover[] {
  // Under another session's sshd, or sshd itself: never ours, whatever its environment says.
  const marked = findMarked(scan, marks).filter((stat) => !scan.isBelowSessionSshd(stat));
  const own = new Set(marked);
  const below = scan.descendantsOf(marks.root).filter((stat) => !own.has(stat));
  const { theirs, isShared } = below.length === 0 ? NOBODY : whatOthersHave(scan, marks, others());
  const found = [
    ...[...own].map((stat) => ({ stat, isShared: false })),
    ...below.filter((stat) => !theirs.has(stat)).map((stat) => ({ stat, isShared })),
    ...findUnknown(scan, marks).filter((stat) => !own.has(stat)).map((stat) => ({
      ...{ stat, isShared: true, isUnknown: true as const },
    })),
  ].filter(({ stat }) => !isDead(stat) && stat.pid !== marks.root.pid && stat.pid !== process.pid);
  return found.map(({ stat, ...whose }) => {
    const { pid, startTime, comm, state } = stat;
    return { pid, startTime, comm: comm.replace(CONTROL, "?"), state, ...whose };
  });
}

/** What other local sessions have among the descendants of a session's root. */
interface OthersPart {
  /** Marked with another's id, or another's root and what is below it. */
  theirs: ReadonlySet<ProcessStat>;
  /** Whether the rest belongs to a session of the same root as well. */
  isShared: boolean;
}

const NOBODY: OthersPart = { theirs: new Set(), isShared: false };

function whatOthersHave(
  scan: ProcessScan,
  { root }: SessionMarks,
  others: Iterable<OtherSession>,
): OthersPart {
  const self = scan.get(root);
  const theirs = new Set<ProcessStat>();
  let isShared = false;
  for (const { marks, isSharing } of others) {
    const otherRoot = scan.get(marks.root);
    const isSameRoot = otherRoot !== undefined && otherRoot === self;
    isShared ||= isSameRoot && isSharing;
    const below = isSameRoot || otherRoot === undefined
      ? []
      : [otherRoot, ...scan.descendantsOf(otherRoot)];
    const has = [...below, ...findMarked(scan, marks)];
    // This session runs inside that one: all that it has is that one's as well.
    if (self !== undefined && has.includes(self)) continue;
    for (const stat of has) theirs.add(stat);
  }
  return { theirs, isShared };
}

/**
 * What may be of the session, and shows it when it is a command: what its sshd may have forked just
 * before it was killed, and what is becoming another program. One that began before the session is not
 * of it, and one whose session shows otherwise is that one's.
 */
function findUnknown(scan: ProcessScan, { root, uid, variable }: SessionMarks): ProcessStat[] {
  const forked = variable?.name === SESSION_VARIABLE ? [] : scan.forkedBySshd(uid);
  const starting = scan.starting(uid).filter((stat) => !scan.isBelowSessionSshd(stat));
  return [...new Set([...forked, ...starting])]
    .filter(({ startTime }) => startTime >= root.startTime);
}

function findMarked(
  scan: ProcessScan,
  { uid, variable, scope, auditSession }: SessionMarks,
): ProcessStat[] {
  return [
    ...scope === undefined ? [] : scan.inScope(scope),
    ...auditSession === undefined ? [] : scan.inAuditSession(auditSession),
    ...variable === undefined ? [] : scan.withVariable(uid, variable),
  ];
}
