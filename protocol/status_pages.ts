/**
 * A long status comes in pages; this puts them together again.
 *
 * @module
 */

import type { LockFacts, StatusParams, StatusResult } from "./messages.ts";

/**
 * Asks for page after page until there are no more.
 *
 * A lock of the agent's that changes hands meanwhile is shown as it was when its page was made.
 *
 * @param ask Sends `status` with these parameters.
 * @param name Only this lock.
 * @param first The first page, where it is known already, as the answer to `watch` is.
 */
export async function readAllPages(
  ask: (params: StatusParams) => Promise<StatusResult>,
  name?: string,
  first?: StatusResult,
): Promise<StatusResult> {
  const only = name === undefined ? {} : { name };
  let page = first ?? await ask(only);
  const { notes } = page;
  const locks: LockFacts[] = [...page.locks];
  while (page.more === true && page.locks.length > 0) {
    page = await ask({ ...only, after: page.locks.at(-1)!.name });
    locks.push(...page.locks);
  }
  return notes === undefined ? { locks } : { locks, notes };
}
