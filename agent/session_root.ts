/**
 * What a session stands and falls with: its root process, and the marks its processes carry.
 *
 * @module
 */

import type { Peer } from "./peer.ts";
import { findSshdProcess, readSshConnection } from "./peer.ts";
import { readMarks, type SessionMarks } from "./leftovers.ts";
import type { ProcessId } from "./proc.ts";
import { CONNECTION_VARIABLE } from "./process_scan.ts";

/** Which process a session is: the SSH session that its peer belongs to, or the peer itself. */
export type SessionKind = "ssh" | "process";

/** SSH sessions that are remembered; one of them opens many channels. */
const MAX_REMEMBERED = 1_000;

/**
 * Finds the root of a peer's session.
 *
 * @param peer Who has connected.
 * @param asked What the peer says it is; a program that holds a lock for itself asks for `process`.
 */
export function findRoot(peer: Peer, asked: SessionKind): { kind: SessionKind; root: ProcessId } {
  const sshd = asked === "ssh" ? sshdOf(peer) : undefined;
  if (sshd !== undefined) return { kind: "ssh", root: sshd };
  return { kind: "process", root: { pid: peer.pid, startTime: peer.startTime ?? 0 } };
}

const knownSshds = new Map<string, ProcessId>();

/** A process keeps its ancestor for as long as that lives, so it is looked for once. */
function sshdOf(peer: Peer): ProcessId | undefined {
  const key = `${peer.pid}/${peer.startTime}`;
  const known = knownSshds.get(key);
  if (known !== undefined) return known;
  const found = findSshdProcess(peer.pid);
  if (found === undefined) return undefined;
  const sshd = { pid: found.pid, startTime: found.startTime };
  remember(knownSshds, key, sshd);
  return sshd;
}

function remember<T>(known: Map<string, T>, key: string, value: T): void {
  if (known.size >= MAX_REMEMBERED) known.clear();
  known.set(key, value);
}

/**
 * Reads what marks the processes of an SSH session, as far as it can be known by now.
 *
 * @param peer Who has connected.
 * @param root The sshd of the session.
 */
export function identifySshSession(
  peer: Peer,
  root: ProcessId,
): { marks: SessionMarks; clientAddress: string | undefined } {
  const connection = connectionOfRoot(peer.pid, root);
  const variable = connection === undefined
    ? undefined
    : { name: CONNECTION_VARIABLE, value: connection };
  const clientAddress = connection?.split(" ", 1)[0];
  return { marks: readMarks(root, peer.uid, variable), clientAddress };
}

const knownConnections = new Map<string, string>();

/** Finding it out can mean to read all TCP connections of the host, which takes milliseconds. */
function connectionOfRoot(peerPid: number, root: ProcessId): string | undefined {
  const key = `${root.pid}/${root.startTime}`;
  const known = knownConnections.get(key);
  if (known !== undefined) return known;
  const connection = readSshConnection(peerPid, root.pid);
  if (connection === undefined) return undefined;
  remember(knownConnections, key, connection);
  return connection;
}
