/**
 * What can be configured of an agent, with the default, unit and range of each key.
 *
 * @module
 */

import {
  GIVE_UP_MS,
  GRACE_MS,
  HEARTBEAT_MS,
  MAX_PARK_MS,
  MAX_SILENCE_MS,
  MAX_WAIT_MS,
  MIN_SILENCE_MS,
  SILENCE_MS,
  TAKEOVER_DEADLINE_MS,
} from "../protocol/limits.ts";
import type { EndPolicy } from "./clean_up.ts";
import type { ConfigEntry } from "./config_text.ts";
import { groupId } from "./users.ts";

/** The configuration of an agent; every key of the file by its own name. */
export interface AgentConfig {
  /** What becomes of the processes of a session that ends, where its claim does not say. */
  readonly onEnd: EndPolicy;
  /** Time between TERM and KILL for them, where the claim does not say, in milliseconds. */
  readonly graceMs: number;
  /** Time between two heartbeats of a session, in milliseconds. */
  readonly heartbeatMs: number;
  /** Age of the last answered ping after which a controller gives its locks up, in milliseconds. */
  readonly giveUpMs: number;
  /** Silence after which the agent ends a session, in milliseconds. */
  readonly silenceMs: number;
  /** Time that a session has to release a lock that is taken over, where the claim does not say, in milliseconds. */
  readonly takeoverDeadlineMs: number;
  /** The longest time that a claim may ask to be parked for, in milliseconds; 0: nobody may park. */
  readonly maxParkMs: number;
  /** Group whose members may end others' locks, beside root; absent: nobody else may. */
  readonly adminGroup?: string;
  /** Connections that one user may have. */
  readonly maxConnectionsPerUser: number;
  /** Claims, granted and waiting, that one user may have. */
  readonly maxClaimsPerUser: number;
}

/** What an agent without a config file works with. */
export const DEFAULT_CONFIG: AgentConfig = {
  onEnd: "kill",
  graceMs: GRACE_MS,
  heartbeatMs: HEARTBEAT_MS,
  giveUpMs: GIVE_UP_MS,
  silenceMs: SILENCE_MS,
  takeoverDeadlineMs: TAKEOVER_DEADLINE_MS,
  maxParkMs: MAX_PARK_MS,
  // More than a fleet's controllers need on one host.
  maxConnectionsPerUser: 4_096,
  maxClaimsPerUser: 20_000,
};

/** Shortest time between two heartbeats, in milliseconds: below it they cost more than they tell. */
const MIN_HEARTBEAT_MS = 20;

/** More than a kernel gives a process descriptors for. */
const MAX_COUNT = 1_048_576;

type Rule =
  | { kind: "whole"; unit: string; min: number; max: number }
  | { kind: "words"; words: readonly string[] }
  | { kind: "group" };

const RULES: Record<keyof AgentConfig, Rule> = {
  onEnd: { kind: "words", words: ["kill", "drain", "leave"] },
  graceMs: milliseconds(0, MAX_WAIT_MS),
  heartbeatMs: milliseconds(MIN_HEARTBEAT_MS, MAX_SILENCE_MS),
  giveUpMs: milliseconds(MIN_HEARTBEAT_MS, MAX_SILENCE_MS),
  silenceMs: milliseconds(MIN_SILENCE_MS, MAX_SILENCE_MS),
  takeoverDeadlineMs: milliseconds(0, MAX_WAIT_MS),
  maxParkMs: milliseconds(0, MAX_WAIT_MS),
  adminGroup: { kind: "group" },
  maxConnectionsPerUser: { kind: "whole", unit: "", min: 1, max: MAX_COUNT },
  maxClaimsPerUser: { kind: "whole", unit: "", min: 1, max: MAX_COUNT },
};

/** All keys of a config file, in the order in which they are shown. */
export const CONFIG_KEYS = Object.keys(RULES) as (keyof AgentConfig)[];

/** An entry of a config file that cannot be followed. */
export class ConfigValueError extends Error {
  override name = "ConfigValueError";
  /** The line of the entry, counted from 1; absent where several lines do not fit together. */
  readonly line: number | undefined;

  /**
   * @param line Where.
   * @param message What is wrong, and what would be right.
   */
  constructor(line: number | undefined, message: string) {
    super(message);
    this.line = line;
  }
}

/**
 * The configuration that the entries of a file make, with the defaults for what they leave out.
 *
 * The times of the result are in the order that keeps promises: heartbeat below give-up, give-up
 * below silence.
 *
 * @param entries The file's entries by key.
 * @throws {ConfigValueError} An unknown key, a value out of its range, or times in another order.
 */
export function configOf(entries: ReadonlyMap<string, ConfigEntry>): AgentConfig {
  for (const [key, entry] of entries) checkEntry(key, entry);
  const values = [...entries].map(([key, { value }]) => [key, value]);
  const config: AgentConfig = { ...DEFAULT_CONFIG, ...Object.fromEntries(values) };
  checkOrder(config);
  return config;
}

/**
 * The times of a session whose silence limit is another one than the configured: heartbeat and
 * give-up keep their share of it, and their order.
 *
 * @param config The agent's configuration.
 * @param silenceMs The session's limit in milliseconds; 0: none, and the configured times are told.
 */
export function timesFor(
  config: AgentConfig,
  silenceMs: number,
): Pick<AgentConfig, "heartbeatMs" | "giveUpMs" | "silenceMs"> {
  const share = silenceMs === 0 ? 1 : silenceMs / config.silenceMs;
  const limitMs = silenceMs === 0 ? config.silenceMs : silenceMs;
  const giveUpMs = clamp(config.giveUpMs * share, MIN_HEARTBEAT_MS + 1, limitMs - 1);
  const heartbeatMs = clamp(config.heartbeatMs * share, MIN_HEARTBEAT_MS, giveUpMs - 1);
  return { heartbeatMs, giveUpMs, silenceMs };
}

function milliseconds(min: number, max: number): Rule {
  return { kind: "whole", unit: " of milliseconds", min, max };
}

function clamp(value: number, min: number, max: number): number {
  return Math.min(Math.max(Math.floor(value), min), max);
}

function checkEntry(key: string, { value, line }: ConfigEntry): void {
  const rule = Object.hasOwn(RULES, key) ? RULES[key as keyof AgentConfig] : undefined;
  if (rule === undefined) {
    const nearest = nearestKey(key);
    throw new ConfigValueError(line, `there is no key "${key}"; the nearest one is "${nearest}"`);
  }
  const wanted = whyWrong(rule, value);
  if (wanted === undefined) return;
  throw new ConfigValueError(line, `"${key}" is ${JSON.stringify(value)}; it must be ${wanted}`);
}

/** What the value would have to be, when it is not that. */
function whyWrong(rule: Rule, value: unknown): string | undefined {
  switch (rule.kind) {
    case "whole": {
      const { unit, min, max } = rule;
      const fits = Number.isInteger(value) && min <= Number(value) && Number(value) <= max;
      return fits ? undefined : `a whole number${unit}, ${min} to ${max}`;
    }
    case "words": {
      const { words } = rule;
      const listed = words.map((word) => `"${word}"`).join(", ");
      return words.includes(value as string) ? undefined : `one of ${listed}`;
    }
    case "group":
      if (typeof value === "string" && groupId(value) !== undefined) return undefined;
      return "the name of a group in /etc/group (groupadd --system NAME makes one)";
  }
}

function checkOrder({ heartbeatMs, giveUpMs, silenceMs }: AgentConfig): void {
  if (heartbeatMs < giveUpMs && giveUpMs < silenceMs) return;
  throw new ConfigValueError(
    undefined,
    `heartbeatMs is ${heartbeatMs}, giveUpMs ${giveUpMs}, silenceMs ${silenceMs}; each must be ` +
      `less than the next, because a controller has to give its locks up before the agent ends ` +
      `its session`,
  );
}

function nearestKey(key: string): string {
  const distances = CONFIG_KEYS.map((known) => ({ known, far: distanceOf(key, known) }));
  return distances.reduce((best, other) => other.far < best.far ? other : best).known;
}

/** How many letters have to be added, left out or replaced, whatever their case. */
function distanceOf(from: string, to: string): number {
  const [a, b] = [from.toLowerCase(), to.toLowerCase()];
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
