/**
 * The limits both sides keep to, with the reason for each value.
 *
 * @module
 */

/** The protocol version this code speaks. A peer with another major version is refused in `hello`. */
export const PROTOCOL_VERSION = 1;

/** Longest line, in bytes with its newline: far above any honest message, and small enough to hold for 1,000 peers. */
export const MAX_LINE_BYTES = 64 * 1024;

/** Longest request id that is text, in UTF-16 code units: it comes back in the answer, which has the same limit of bytes. */
export const MAX_ID_LENGTH = 200;

/** Longest owner, in UTF-16 code units: an identity such as `respirate/42`, not a document. */
export const MAX_OWNER_LENGTH = 200;

/** Longest purpose, in UTF-16 code units: a sentence for the person who is refused. */
export const MAX_PURPOSE_LENGTH = 500;

/** Longest wait of one claim, in milliseconds (24 days): what a 32-bit timer can hold. */
export const MAX_WAIT_MS = 2_147_483_647;

/** Time between two heartbeats of a session, in milliseconds. */
export const HEARTBEAT_MS = 3_000;

/**
 * Age of the last answered ping after which the controller gives its locks up, in milliseconds.
 *
 * It must lie between {@linkcode HEARTBEAT_MS} and {@linkcode SILENCE_MS}: the controller stops
 * believing in its lock before the agent ends the session.
 */
export const GIVE_UP_MS = 10_000;

/** Silence after which the agent ends a session, in milliseconds. */
export const SILENCE_MS = 15_000;

/** Smallest silence limit that a session may ask for, in milliseconds: below it, scheduling noise ends sessions. */
export const MIN_SILENCE_MS = 200;

/** Largest silence limit that a session may ask for, in milliseconds (one hour). */
export const MAX_SILENCE_MS = 3_600_000;

/** Default time between TERM and KILL for the processes of a session that has ended, in milliseconds. */
export const GRACE_MS = 5_000;

/** Default time that whoever has a lock is given to release it when another takes it over, in milliseconds. */
export const TAKEOVER_DEADLINE_MS = 10_000;

/** Default of the longest time that a lock may stay reserved for an owner whose link has dropped, in milliseconds (ten minutes). */
export const MAX_PARK_MS = 600_000;
