/**
 * What a check of `doctor` finds, and what every check may look at.
 *
 * @module
 */

import type { StatusResult } from "../../protocol/messages.ts";
import type { ConfigPlace } from "../config_file.ts";
import type { AgentPaths } from "../paths.ts";

/** How a check came out; `skip` where it cannot be made here. */
export type FindingState = "ok" | "warn" | "fail" | "skip";

/** What one check found. */
export interface Finding {
  /** Stable name of the check, for scripts. */
  id: string;
  /** `warn`: something is worse than it could be; `fail`: locks do not work or do not exclude. */
  state: FindingState;
  /** What was looked at and what it is like. */
  what: string;
  /** How to mend it. */
  hint?: string;
}

/** What is known before the checks start. */
export interface Scene {
  /** Where the agent's files lie. */
  paths: AgentPaths;
  /** The config file that an agent of this user reads. */
  config: ConfigPlace;
  /** Sockets that a client on this host tries. */
  sockets: string[];
  /** User id of this process. */
  uid: number;
  /** The running agent, if one answered. */
  agent: AgentReport;
}

/** What a running agent said of itself, or why none did. */
export type AgentReport =
  | { kind: "running"; socket: string; version: string; status: StatusResult }
  | { kind: "absent"; reason: string }
  | { kind: "broken"; socket: string; reason: string };

/**
 * One check. It may find several things, harms nothing, and ends within a second.
 *
 * @throws {Error} It could not be made; that is shown as a failure with its name.
 */
export type Check = (scene: Scene) => Finding[] | Promise<Finding[]>;

/**
 * A finding in one call.
 *
 * @param id Stable name of the check.
 * @param state How it came out.
 * @param what What was looked at and what it is like.
 * @param hint How to mend it.
 */
export function found(id: string, state: FindingState, what: string, hint?: string): Finding {
  return hint === undefined ? { id, state, what } : { id, state, what, hint };
}
