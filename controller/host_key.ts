/**
 * Who vouches for the key that a host shows. Without anyone to vouch, no connection is made.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";

import { HostKeyError } from "./errors.ts";

/** The key that a host shows, before anything is sent to it. */
export interface HostKey {
  /** The host as it was named. */
  readonly host: string;
  /** The port. */
  readonly port: number;
  /** The key's type, such as `ssh-ed25519`. */
  readonly type: string;
  /** `SHA256:…`, as `ssh-keygen -l` prints it. */
  readonly fingerprint: string;
  /** The public key as the SSH protocol has it; base64 of it is what known_hosts(5) lists. */
  readonly key: Uint8Array;
}

/** How a host key is judged; at least one of the three has to be given. */
export interface HostKeyPolicy {
  /** Judges the key; the connection waits for the answer. An error thrown here refuses it too. */
  hostVerifier?: ((key: HostKey) => boolean | Promise<boolean>) | undefined;
  /** The fingerprints that are right, `SHA256:…`. */
  hostFingerprint?: string | readonly string[] | undefined;
  /**
   * Accepts the first key that a host shows, and only that one for the rest of the process.
   * It protects later connections, not the first: for tests and trusted networks.
   */
  acceptNewHostKeys?: boolean | undefined;
}

/** Keys that `acceptNewHostKeys` let in: `host:port` to the key's type and fingerprint. */
const accepted = new Map<string, { type: string; fingerprint: string }>();

/**
 * Judges the key that a host shows.
 *
 * @param policy Who vouches.
 * @param key The key.
 * @param target `user@host:port`, for the error.
 * @throws {HostKeyError} Nobody vouches for it, it is another one than expected, or it was refused.
 */
export async function checkHostKey(
  policy: HostKeyPolicy,
  key: HostKey,
  target: string,
): Promise<void> {
  const shown = `${key.type} ${key.fingerprint}`;
  const { hostVerifier, hostFingerprint, acceptNewHostKeys } = policy;
  if (hostFingerprint !== undefined) {
    const right = [hostFingerprint].flat().map(withoutPadding);
    if (right.includes(key.fingerprint)) return;
    const detail = `its host key is ${shown}, expected ${right.join(" or ")}`;
    throw new HostKeyError("changed", target, key, detail);
  }
  if (hostVerifier !== undefined) {
    if (await hostVerifier(key) === true) return;
    const detail = `hostVerifier refused its host key ${shown}`;
    throw new HostKeyError("refused", target, key, detail);
  }
  if (acceptNewHostKeys !== true) {
    const detail = `nothing vouches for its host key ${shown}`;
    throw new HostKeyError("not-vouched-for", target, key, detail);
  }
  acceptFirst(key, target, shown);
}

/**
 * The type of the key that a host is known by, so that it can be asked for first.
 *
 * @param host The host as it was named.
 * @param port The port.
 */
export function acceptedKeyType(host: string, port: number): string | undefined {
  return accepted.get(`${host}:${port}`)?.type;
}

/** Forgets the keys that `acceptNewHostKeys` let in. */
export function forgetHostKeys(): void {
  accepted.clear();
}

/**
 * What a host key is called by.
 *
 * @param host The host as it was named.
 * @param port The port.
 * @param key The public key as the SSH protocol has it.
 * @see RFC 4253, section 6.6
 */
export function describeHostKey(host: string, port: number, key: Uint8Array): HostKey {
  const bytes = Buffer.from(key);
  const typeLength = bytes.readUInt32BE(0);
  const type = bytes.toString("latin1", 4, 4 + typeLength);
  const digest = createHash("sha256").update(bytes).digest("base64");
  return { host, port, type, fingerprint: `SHA256:${withoutPadding(digest)}`, key };
}

function acceptFirst(key: HostKey, target: string, shown: string): void {
  const place = `${key.host}:${key.port}`;
  const known = accepted.get(place);
  if (known === undefined) {
    accepted.set(place, { type: key.type, fingerprint: key.fingerprint });
  } else if (known.fingerprint !== key.fingerprint) {
    const detail =
      `its host key has changed to ${shown}, it was ${known.type} ${known.fingerprint}`;
    throw new HostKeyError("changed", target, key, detail);
  }
}

function withoutPadding(text: string): string {
  return text.replace(/=+$/, "");
}
