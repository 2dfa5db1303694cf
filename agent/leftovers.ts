/**
 * The processes that belong to a session, found by the marks that a session leaves on them.
 *
 * What has left all marks (a systemd unit, or without PAM `env -u SSH_CONNECTION setsid`) has
 * detached on purpose and is not found.
 *
 * @module
 */

import process from "node:process";
import { NextRun } from "./next_run.ts";
import { isDead, type ProcessId, type ProcessStat } from "./proc.ts";
import { ProcessScan, readAuditSession, readScope } from "./process_scan.ts";

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

  /**
   * @param sparedPids The pids of all holders: they belong to no session.
   */
  constructor(sparedPids: () => ReadonlySet<number>) {
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
   */
  async find(marks: SessionMarks): Promise<Leftover[]> {
    const { scan, spared } = await this.#scans.ask();
    const below = scan.descendantsOf(marks.root);
    // Under another session's sshd, or sshd itself: never ours, whatever its environment says.
    const marked = findMarked(scan, marks).filter((stat) => !scan.isBelowSessionSshd(stat));
    const found = [...new Set([...below, ...marked])].filter((stat) =>
      !isDead(stat) && stat.pid !== marks.root.pid && stat.pid !== process.pid
    );
    return found.filter(({ pid }) => !spared.has(pid)).map(({ pid, startTime, comm, state }) => ({
      ...{ pid, startTime, comm: comm.replace(CONTROL, "?"), state },
    }));
  }
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
