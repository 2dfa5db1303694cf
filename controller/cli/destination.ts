/**
 * `[user@]host[:port]`, as it is written on a command line.
 *
 * @module
 */

import { UsageError } from "./exit_codes.ts";

/** Where to. */
export interface Destination {
  /** The user, where one was written. */
  username: string | undefined;
  /** Name or address. */
  host: string;
  /** The port, where one was written. */
  port: number | undefined;
}

/**
 * Reads `[user@]host[:port]`. An IPv6 address is written in brackets where a port follows it.
 *
 * @param text What was written.
 * @throws {UsageError} It is no destination.
 */
export function parseDestination(text: string): Destination {
  const at = text.lastIndexOf("@");
  const username = at < 0 ? undefined : text.slice(0, at);
  const place = text.slice(at + 1);
  const match = /^\[([^\]]+)\](?::(\d+))?$/.exec(place) ?? /^([^:]+)(?::(\d+))?$/.exec(place) ??
    /^([0-9a-fA-F]*:[0-9a-fA-F:.]*:[^@\]]*)$/.exec(place);
  const port = match?.[2] === undefined ? undefined : Number(match[2]);
  const isPort = port === undefined || (port >= 1 && port <= 65_535);
  // A host that begins with a dash is an option in the wrong place.
  if (match === null || username === "" || !isPort || place.startsWith("-")) {
    throw new UsageError(
      `Cannot read destination ${JSON.stringify(text)}: it is not [user@]host[:port]`,
      "for example db1, root@db1, root@db1:2222 or root@[2001:db8::1]:22",
    );
  }
  return { username, host: match[1] as string, port };
}
