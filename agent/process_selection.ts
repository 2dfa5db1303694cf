/**
 * Which of a session's processes a request means: those of one command, for example.
 *
 * @module
 */

import type { ProcessSelection } from "../protocol/messages.ts";
import type { Leftover } from "./leftovers.ts";
import { type ProcessStat, readStat, readVariables } from "./proc.ts";

/** The variable that the library marks a command by which it may have to end. */
export const COMMAND_VARIABLE = "SSHLOCK_COMMAND";

/**
 * The processes that a selection means.
 *
 * A process that was started behind the reader's back is missing: whoever wants all of them asks until
 * nothing new appears.
 *
 * @param found The processes of the session.
 * @param selection Which of them; all where it names nothing.
 */
export function selectProcesses(found: Leftover[], selection: ProcessSelection): Leftover[] {
  const { pid, tree = false, mark } = selection;
  if (pid === undefined && mark === undefined) return found;
  const stats = new Map<number, ProcessStat>();
  for (const { pid, startTime } of found) {
    const stat = readStat(pid);
    if (stat?.startTime === startTime) stats.set(pid, stat);
  }
  const isNamed = (stat: ProcessStat) =>
    stat.pid === pid || (tree && stat.sessionId === pid) ||
    (mark !== undefined && hasMark(stat, mark));
  const chosen = new Set([...stats.values()].filter(isNamed).map((stat) => stat.pid));
  if (tree || mark !== undefined) addDescendants(chosen, stats);
  return found.filter((process) => chosen.has(process.pid));
}

function hasMark(stat: ProcessStat, mark: string): boolean {
  const { values } = readVariables(stat, [COMMAND_VARIABLE]);
  return values.get(COMMAND_VARIABLE)!.includes(mark);
}

/** Until a round adds none: a child may stand before its parent in the list. */
function addDescendants(chosen: Set<number>, stats: Map<number, ProcessStat>): void {
  for (let before = -1; before < chosen.size;) {
    before = chosen.size;
    for (const stat of stats.values()) {
      if (chosen.has(stat.parentPid)) chosen.add(stat.pid);
    }
  }
}
