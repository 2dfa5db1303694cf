/**
 * The SSH algorithms that are offered, the preferred first: named one by one, so that neither a
 * runtime nor a new ssh2 changes them unnoticed.
 *
 * @module
 */

import { getCiphers } from "node:crypto";

/** Names as RFC 4253 and the OpenSSH extensions have them. */
export interface AlgorithmNames {
  /** Key exchange. */
  kex: string[];
  /** Host keys. */
  serverHostKey: string[];
  /** Encryption. */
  cipher: string[];
  /** Integrity, for ciphers without their own. */
  hmac: string[];
  /** Compression. */
  compress: string[];
}

const KEX = [
  "curve25519-sha256",
  "curve25519-sha256@libssh.org",
  "ecdh-sha2-nistp256",
  "ecdh-sha2-nistp384",
  "ecdh-sha2-nistp521",
  "diffie-hellman-group16-sha512",
  "diffie-hellman-group18-sha512",
  "diffie-hellman-group14-sha256",
];

// No ssh-rsa: it signs with SHA-1. RSA keys sign with SHA-2 under the two rsa-sha2 names.
const HOST_KEYS = [
  "ssh-ed25519",
  "ecdsa-sha2-nistp256",
  "ecdsa-sha2-nistp384",
  "ecdsa-sha2-nistp521",
  "rsa-sha2-512",
  "rsa-sha2-256",
];

// AES-GCM first: it is fast, and there on every runtime (Bun lacks chacha20).
const CIPHERS = [
  "aes128-gcm@openssh.com",
  "aes256-gcm@openssh.com",
  "aes256-ctr",
  "aes192-ctr",
  "aes128-ctr",
];

const HMACS = [
  "hmac-sha2-256-etm@openssh.com",
  "hmac-sha2-512-etm@openssh.com",
  "hmac-sha2-256",
  "hmac-sha2-512",
];

/**
 * The algorithms to offer to a host.
 *
 * @param knownKeyType The type of the host key that is known; it is asked for first, since another
 *   key of the same host could not be compared with it.
 */
export function offeredAlgorithms(knownKeyType?: string): AlgorithmNames {
  // For servers that allow nothing else.
  const chacha = getCiphers().includes("chacha20") ? ["chacha20-poly1305@openssh.com"] : [];
  const isKnown = (name: string) =>
    name === knownKeyType || (knownKeyType === "ssh-rsa" && name.startsWith("rsa-"));
  return {
    kex: KEX,
    serverHostKey: [...HOST_KEYS.filter(isKnown), ...HOST_KEYS.filter((name) => !isKnown(name))],
    cipher: [...CIPHERS, ...chacha],
    hmac: HMACS,
    compress: ["none"],
  };
}
