/**
 * Who is at the other end of a connection, and whose SSH session it came through.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import {
  closeDescriptor,
  copyDescriptor,
  type Endpoint,
  endpointsOf,
  openPidfd,
  type PeerCredentials,
} from "./libc.ts";
import {
  listDescriptors,
  type ProcessId,
  type ProcessStat,
  readChildren,
  readCommand,
  readEnvironment,
  readExecutable,
  readStat,
} from "./proc.ts";
import { CONNECTION_VARIABLE, SSHD_NAMES } from "./process_scan.ts";

// More ancestors than any honest process has; a guard against reading a changing tree for ever.
const MAX_ANCESTORS = 64;

/** The other end of a connection. */
export interface Peer extends PeerCredentials {
  /** Start time of the process, where it can be seen. */
  startTime?: number;
  /** Its supplementary groups, where the agent asks for them. */
  groups?: number[];
}

/**
 * Completes what the socket says of a peer by what /proc says of it.
 *
 * @param credentials What SO_PEERCRED says.
 */
export function identifyPeer(credentials: PeerCredentials): Peer {
  return { ...credentials, startTime: readStat(credentials.pid)?.startTime };
}

/**
 * The sshd process of the SSH session that a process belongs to: itself or its nearest ancestor.
 *
 * @param pid The process.
 * @returns `undefined` for a process that no sshd has started.
 */
export function findSshdProcess(pid: number): ProcessId | undefined {
  let stat = readStat(pid);
  for (let steps = 0; stat !== undefined && steps < MAX_ANCESTORS; steps++) {
    if (SSHD_NAMES.includes(stat.comm) && servesSession(stat)) return stat;
    stat = readStat(stat.parentPid);
  }
  return undefined;
}

/**
 * SSH_CONNECTION of a session (client address and port, server address and port): from its peer,
 * else from a process that its sshd has started, else made from the TCP connection of its sshd.
 *
 * @param peerPid The peer.
 * @param sshdPid The sshd of the session.
 */
export function readSshConnection(peerPid: number, sshdPid: number): string | undefined {
  if (peerPid !== sshdPid) {
    const connection = readConnection(peerPid);
    if (connection !== undefined) return connection;
  }
  for (const pid of readChildren(sshdPid)) {
    const connection = readConnection(pid);
    if (connection !== undefined) return connection;
  }
  return connectionOf(sshdPid);
}

/** The environment is the process's own to write: what is no connection is not passed on. */
function readConnection(pid: number): string | undefined {
  const connection = readEnvironment(pid, CONNECTION_VARIABLE);
  const [client = "", , server = "", ...rest] = connection?.split(" ") ?? [];
  const isSound = isIP(client) !== 0 && isIP(server) !== 0 && rest.length === 1 &&
    connection!.length <= 200;
  return isSound ? connection : undefined;
}

/**
 * What the part of sshd that serves a session calls itself: its user, and `@` with the terminals or `[priv]`.
 * The one that listens calls itself by its command line.
 */
const SESSION_TITLE = /^sshd(?:-session)?: [^ /]+(?:@[^ ]+| \[priv\])$/;

/**
 * The sshd that listens is an ancestor of all sessions and the root of none. A session's has that one for
 * its parent, until it is restarted; and where systemd listens (`sshd -i`), there never was one.
 */
function servesSession({ pid, parentPid }: ProcessStat): boolean {
  const parent = readStat(parentPid);
  return (parent !== undefined && SSHD_NAMES.includes(parent.comm)) ||
    readExecutable(pid)?.endsWith("/sshd-session") === true ||
    SESSION_TITLE.test(readCommand(pid)?.trimEnd() ?? "");
}

/**
 * Needs the right to see the descriptors of sshd, which only root has.
 *
 * Reading the host's TCP connections takes milliseconds, in which nobody else is heard; so sshd's own
 * descriptor is asked first, and /proc/net only where that may not be copied.
 */
function connectionOf(pid: number): string | undefined {
  const sockets = (listDescriptors(pid) ?? [])
    .filter(([, target]) => target.startsWith("socket:["))
    .sort(([a], [b]) => a - b);
  if (sockets.length === 0) return undefined;
  try {
    return askSockets(pid, sockets.map(([fd]) => fd));
  } catch {
    return searchTables(pid, sockets.map(([, target]) => target.slice("socket:[".length, -1)));
  }
}

/** The first of its descriptors is the client's; forwarded connections come later. */
function askSockets(pid: number, fds: number[]): string | undefined {
  const pidfd = openPidfd(pid);
  if (pidfd === undefined) return undefined;
  try {
    for (const fd of fds) {
      const copy = copyDescriptor(pidfd, fd);
      const ends = endpointsOf(copy);
      closeDescriptor(copy);
      if (ends !== undefined) return [ends.peer, ends.local].map(formatEndpoint).join(" ");
    }
    return undefined;
  } finally {
    closeDescriptor(pidfd);
  }
}

function searchTables(pid: number, inodes: string[]): string | undefined {
  for (const table of ["tcp", "tcp6"]) {
    const connections = readTable(pid, table).map((line) => line.trim().split(/\s+/));
    for (const inode of inodes) {
      // State 01 is ESTABLISHED.
      const found = connections.find((fields) => fields[9] === inode && fields[3] === "01");
      if (found !== undefined) return `${decodeEndpoint(found[2]!)} ${decodeEndpoint(found[1]!)}`;
    }
  }
  return undefined;
}

function readTable(pid: number, table: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/net/${table}`, "latin1").split("\n").slice(1);
  } catch {
    return [];
  }
}

/** `0100007F:1F90` is 127.0.0.1 port 8080: each 32-bit word in the order of the host's bytes. */
function decodeEndpoint(field: string): string {
  const [hex, port] = field.split(":") as [string, string];
  const words = hex.match(/.{8}/g) ?? [];
  const address = words.flatMap((word) =>
    word.match(/../g)!.reverse().map((byte) => parseInt(byte, 16))
  );
  return formatEndpoint({ address, port: parseInt(port, 16) });
}

function formatEndpoint({ address, port }: Endpoint): string {
  return `${formatAddress(address)} ${port}`;
}

function formatAddress(bytes: number[]): string {
  if (bytes.length === 4) return bytes.join(".");
  const mapped = bytes.slice(0, 10).every((byte) => byte === 0) && bytes[10] === 0xff;
  if (mapped) return bytes.slice(12).join(".");
  const groups = Array.from(
    { length: 8 },
    (_, i) => ((bytes[2 * i]! << 8) | bytes[2 * i + 1]!).toString(16),
  );
  return groups.join(":").replace(/(^|:)0(:0)+(:|$)/, "::");
}
