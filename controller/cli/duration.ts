/**
 * Durations as people write them on a command line.
 *
 * @module
 */

import { MAX_WAIT_MS } from "../../protocol/limits.ts";
import { UsageError } from "./exit_codes.ts";

const UNIT_MS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/**
 * A duration in milliseconds: `500ms`, `30s`, `2m`, `1h`, `1d`; a bare number is seconds, as with flock(1).
 *
 * @param text What was written.
 * @param option The option it was written for, for the error.
 * @throws {UsageError} It is no duration, or longer than 24 days.
 */
export function parseDuration(text: string, option: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(text);
  const unitMs = UNIT_MS[match?.[2] ?? "s"] as number;
  const ms = match === null ? NaN : Math.round(Number(match[1]) * unitMs);
  if (Number.isFinite(ms) && ms <= MAX_WAIT_MS) return ms;
  throw new UsageError(
    `Cannot read ${option} ${JSON.stringify(text)}: it is no duration`,
    "write 500ms, 30s, 2m or 1h, up to 24d; a bare number is seconds",
  );
}
