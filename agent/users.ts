/**
 * Names of users and groups, from the host's own files.
 *
 * Only /etc/passwd and /etc/group are read: asking a directory service could block a claim. A user
 * from elsewhere is shown by number.
 *
 * @module
 */

import { readFileSync, statSync } from "node:fs";

interface Table {
  readAt: number;
  names: Map<number, string>;
}

const tables = new Map<string, Table>();

/**
 * The name of a user, where the host's own file has it.
 *
 * @param uid The user id.
 */
export function userName(uid: number): string | undefined {
  return readTable("/etc/passwd").names.get(uid);
}

/**
 * The id of a group, where the host's own file has it.
 *
 * @param group The name of the group.
 */
export function groupId(group: string): number | undefined {
  for (const [gid, name] of readTable("/etc/group").names) {
    if (name === group) return gid;
  }
  return undefined;
}

/**
 * The name of a group, where the host's own file has it.
 *
 * @param gid The group id.
 */
export function groupName(gid: number): string | undefined {
  return readTable("/etc/group").names.get(gid);
}

/** The file as it is now; read again only when it was changed. */
function readTable(path: string): Table {
  const known = tables.get(path);
  let changedAt: number;
  try {
    changedAt = statSync(path).mtimeMs;
  } catch {
    return { readAt: 0, names: new Map() };
  }
  if (known?.readAt === changedAt) return known;
  const table = { readAt: changedAt, names: parseNames(readFileSync(path, "utf8")) };
  tables.set(path, table);
  return table;
}

function parseNames(text: string): Map<number, string> {
  const names = new Map<number, string>();
  for (const line of text.split("\n")) {
    const [name, , id] = line.split(":");
    if (name !== undefined && id !== undefined && !names.has(Number(id))) {
      names.set(Number(id), name);
    }
  }
  return names;
}
