/**
 * `version`: what this program is.
 *
 * @module
 */

import process from "node:process";
import { PROTOCOL_VERSION } from "../../protocol/limits.ts";
import { COMMIT, VERSION } from "../../protocol/version.ts";
import { printJson, printLine } from "../output.ts";
import { EXIT } from "./exit_codes.ts";

/**
 * Prints version, commit, protocol and runtime.
 *
 * @param json Whether to print JSON.
 * @returns The exit code.
 */
export function printVersion(json: boolean): Promise<number> {
  const { bun, deno } = process.versions as Record<string, string | undefined>;
  const runtime = deno === undefined ? `bun ${bun}` : `deno ${deno}`;
  const facts = { version: VERSION, commit: COMMIT, protocol: PROTOCOL_VERSION, runtime };
  if (json) printJson(facts);
  else printLine(`sshlock-agent ${VERSION} (${COMMIT}), protocol ${PROTOCOL_VERSION}, ${runtime}`);
  return Promise.resolve(EXIT.ok);
}
