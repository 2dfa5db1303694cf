/**
 * Characters of a spare's argv[0]: the room that an order's name is received into.
 * "session-lock-" + the longest name (100) + NUL + "infinity" are 122; the final NUL is there anyway.
 */
const ARGV0_CHARACTERS = 122;

/**
 * What a spare is started as (argv[0], no further arguments).
 *
 * It must not contain "session-lock": `pgrep -af session-lock` finds locks, not spares.
 */
export const SPARE_ARGV0: string = "sshlock-spare".padEnd(ARGV0_CHARACTERS, " ");

/** Layout of an order, in bytes. The lock file's descriptor comes with it by SCM_RIGHTS. */
export const ORDER = {
  /** Offset of the flock(2) operation. */
  operationOffset: 0,
  /** Offset of the flags. */
  flagsOffset: 1,
  /** Offset of the text that replaces argv. */
  argvOffset: 2,
  argvBytes: ARGV0_CHARACTERS + 1,
  totalBytes: 2 + ARGV0_CHARACTERS + 1,
} as const;

/** Bits of an order's flag byte. */
export const ORDER_FLAG = {
  /** Wait in the kernel's queue when another open file description has the lock. */
  wait: 1,
  /** End with the sender until the sender has written a byte; see `encodeOrder`. */
  tied: 2,
} as const;

/** Bits of flock(2), the same on every architecture. */
export const FLOCK = { shared: 1, exclusive: 2, noWait: 4 } as const;

/** The single bytes that a holder answers with. */
export const REPLY = {
  /** The lock is held. */
  locked: "L",
  /** Another has it; the holder waits in the kernel's queue. */
  waiting: "W",
  /** Another has it; the holder ends with `HOLDER_EXIT.contended`. */
  busy: "B",
} as const;

/** Exit codes of a holder. */
export const HOLDER_EXIT = {
  /** The agent is gone: EOF on fd 3, or an answer that nobody would have read. */
  agentGone: 0,
  /** The order is not `ORDER.totalBytes` long or does not carry exactly one descriptor. */
  badOrder: 120,
  /** The descriptor cannot become `LOCK_FD`, as RLIMIT_NOFILE is lower. */
  dupFailed: 121,
  /** flock(2) failed other than by contention. */
  flockFailed: 122,
  /** Another has the lock, and the order said not to wait. */
  contended: 124,
} as const;

/** The descriptor that a holder has its socket to the agent on. It must be in blocking mode. */
export const AGENT_FD = 3;

/** The descriptor that a holder has the lock file on; `ls -l /proc/PID/fd` shows it as 999. */
export const LOCK_FD = 999;

/**
 * The descriptor that a holder keeps its lock's record on, where it was started with one: its standard
 * input. It leaves the standard ones alone, so that takes no instruction.
 */
export const RECORD_FD = 0;

/** What a holder is to do. */
export interface Order {
  /** A validated lock name: ASCII, at most 100 characters. */
  readonly name: string;
  readonly shared: boolean;
  readonly wait: boolean;
  readonly tied: boolean;
}

/**
 * Encodes an order for a spare. It must be sent by one sendmsg(2) together with the descriptor.
 *
 * A tied holder ends when the sender's end of the socket closes, until the sender writes it one
 * byte (any); from then on it outlives the sender like an untied one. So a sender that writes the
 * byte only after its record of the lock is on disk never leaves a lock that nobody knows of.
 *
 * @throws {RangeError} The name does not fit the room that a spare has.
 */
export function encodeOrder({ name, shared, wait, tied }: Order): Uint8Array {
  const argv = new TextEncoder().encode(`session-lock-${name}\0infinity\0`);
  if (name === "" || name.includes("\0") || argv.length > ORDER.argvBytes) {
    throw new RangeError(`Cannot order a holder for "${name}": its name must have 1 to 100 bytes`);
  }
  const order = new Uint8Array(ORDER.totalBytes);
  order[ORDER.operationOffset] = (shared ? FLOCK.shared : FLOCK.exclusive) | FLOCK.noWait;
  order[ORDER.flagsOffset] = (wait ? ORDER_FLAG.wait : 0) | (tied ? ORDER_FLAG.tied : 0);
  order.set(argv, ORDER.argvOffset);
  return order;
}
