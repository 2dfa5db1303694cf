import { ORDER } from "./order.ts";

/** linux/socket.h: the header of a control message, before its data. @see cmsg(3) */
const CONTROL_HEADER_BYTES = 16;

/**
 * The holder's working memory: one frame at the bottom of the stack, the same on both architectures
 * (both are LP64 and little-endian). Offsets and sizes in bytes.
 *
 * @see recvmsg(2) for msghdr and iovec
 */
export const FRAME = {
  /** The first bytes of the order: operation, flags. */
  operation: 0,
  flags: 1,
  /** The byte that is written to the agent, or read from it. */
  reply: 2,
  /** iovec 0: operation and flags. */
  headBase: 8,
  headLength: 16,
  /** iovec 1: argv[0], in place. */
  argvBase: 24,
  argvLength: 32,
  /** struct msghdr. */
  msghdr: 40,
  msgName: 40,
  msgNameLength: 48,
  msgIov: 56,
  msgIovLength: 64,
  msgControl: 72,
  msgControlLength: 80,
  msgFlags: 88,
  /** struct cmsghdr and its one int. */
  control: 96,
  controlLength: 96,
  controlLevel: 104,
  controlType: 108,
  controlFd: 112,
  /** A multiple of 16, as aarch64 wants of its stack pointer. */
  totalBytes: 128,
} as const;

/** Room for the control message: CMSG_SPACE(sizeof(int)). */
export const CONTROL_BYTES = 24;

/** cmsg_len of exactly one descriptor: CMSG_LEN(sizeof(int)). Two of them would say 24. */
export const ONE_DESCRIPTOR_LENGTH: number = CONTROL_HEADER_BYTES + 4;

/** Bytes of an order that go to the frame; the others go over argv[0]. */
export const HEAD_BYTES: number = ORDER.argvOffset;

/** SCM_RIGHTS. @see unix(7) */
export const SCM_RIGHTS = 1;

/** MSG_WAITALL: the whole order, even if signals or the sender cut it up. @see recvmsg(2) */
export const MSG_WAITALL = 0x100;

/** PR_SET_NAME. @see prctl(2) */
export const PR_SET_NAME = 15;

/** PR_SET_PTRACER. @see prctl(2) */
export const PR_SET_PTRACER = 0x59616d61;

/** First descriptor that a holder closes at its start: all but the standard ones and the agent's. */
export const FIRST_STRAY_FD = 4;

/** Where closing one by one ends (Linux before 5.9): the usual RLIMIT_NOFILE. */
export const STRAY_FD_LIMIT = 1024;

/** errno values, negative as system calls return them. @see errno(3) */
export const MINUS_EINTR = -4;
/** See `MINUS_EINTR`; flock(2) calls it EWOULDBLOCK. */
export const MINUS_EAGAIN = -11;
