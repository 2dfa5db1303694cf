/**
 * The C library functions that neither runtime offers: SO_PEERCRED, flock(2), SCM_RIGHTS, pidfds,
 * memfd_create(2).
 *
 * The only file that touches FFI, for Bun (glibc and musl) and Deno behind one typed face. All
 * calls are synchronous and none of them blocks.
 *
 * @module
 */

import process from "node:process";

const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SO_PEERGROUPS = 59;
const SCM_RIGHTS = 1;
const AF_INET = 2;
const AF_INET6 = 10;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
// The same on every architecture, like all system calls since Linux 5.0.
const SYS_PIDFD_SEND_SIGNAL = 424;
const SYS_PIDFD_OPEN = 434;
const SYS_PIDFD_GETFD = 438;
// Older than that: each architecture has its own.
const SYS_MEMFD_CREATE = process.arch === "arm64" ? 279 : 319;

const MFD_CLOEXEC = 1;
const MFD_NOEXEC_SEAL = 8;

/** `events` of a struct pollfd on a machine with the low byte first; `revents` are the upper half. */
export const POLLIN = 1;

const F_GETFL = 3;
const F_SETFL = 4;
const O_NONBLOCK = 0x800;

const ESRCH = 3;
const EINTR = 4;
const EAGAIN = 11;
const EINVAL = 22;
const ERANGE = 34;

/** Supplementary groups that are asked for at first: more than nearly every user has. */
const FEW_GROUPS = 64;

/** flock(2): shared. */
export const LOCK_SH = 1;
/** flock(2): exclusive. */
export const LOCK_EX = 2;
/** flock(2): do not block. */
export const LOCK_NB = 4;
/** flock(2): unlock. */
export const LOCK_UN = 8;

const ERRNO_NAMES: Record<number, string> = {
  1: "EPERM",
  3: "ESRCH",
  4: "EINTR",
  9: "EBADF",
  11: "EAGAIN",
  12: "ENOMEM",
  13: "EACCES",
  22: "EINVAL",
  24: "EMFILE",
  32: "EPIPE",
  37: "ENOLCK",
  88: "ENOTSOCK",
  92: "ENOPROTOOPT",
  95: "EOPNOTSUPP",
  104: "ECONNRESET",
  105: "ENOBUFS",
  107: "ENOTCONN",
  109: "ETOOMANYREFS",
};

/** A C library call that failed. */
export class ErrnoError extends Error {
  override name = "ErrnoError";
  /** The function that failed. */
  readonly call: string;
  /** The value of errno. */
  readonly errno: number;
  /** The symbol of the value, such as `EBADF`. */
  readonly code: string;

  /**
   * @param call The function that failed.
   * @param errno The value of errno.
   */
  constructor(call: string, errno: number) {
    const code = ERRNO_NAMES[errno] ?? `errno ${errno}`;
    super(`${call} failed: ${code}`);
    this.call = call;
    this.errno = errno;
    this.code = code;
  }
}

/** Who is at the other end of a unix socket, as the kernel noted it at connect(2). */
export interface PeerCredentials {
  /** Process id in this process's pid namespace; 0 where it has none there. */
  pid: number;
  /** Effective user id. */
  uid: number;
  /** Effective group id. */
  gid: number;
}

/** What both runtimes' FFI gives us, in one shape. */
interface Symbols {
  getsockopt(fd: number, level: number, name: number, value: Uint8Array, size: Uint8Array): number;
  flock(fd: number, operation: number): number;
  sendmsg(fd: number, message: Uint8Array, flags: number): number | bigint;
  syscall(number: number, a: number, b: number, c: number, d: number): number | bigint;
  poll(entries: Uint8Array, count: number, timeoutMs: number): number;
  getpeername(fd: number, address: Uint8Array, size: Uint8Array): number;
  getsockname(fd: number, address: Uint8Array, size: Uint8Array): number;
  close(fd: number): number;
  fcntl(fd: number, command: number, value: number): number;
  pwrite(fd: number, bytes: Uint8Array, count: number, offset: number): number | bigint;
  errno(): number;
  addressOf(bytes: Uint8Array): bigint;
}

let loaded: Symbols | undefined;

/**
 * Loads the library ahead of the first call, so that a host where it cannot be had fails at start.
 *
 * @throws {Error} No C library of a known name could be opened, or this runtime has no FFI.
 */
export async function loadLibc(): Promise<void> {
  loaded ??= await openLibc();
}

/**
 * Who connected a unix socket.
 *
 * @param fd An accepted unix socket.
 * @throws {ErrnoError} It is no unix socket.
 * @see unix(7), SO_PEERCRED
 */
export function peerCredentials(fd: number): PeerCredentials {
  const credentials = new Int32Array(3);
  const size = new Uint32Array([credentials.byteLength]);
  const libc = symbols();
  if (libc.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, bytesOf(credentials), bytesOf(size)) !== 0) {
    throw new ErrnoError("getsockopt", libc.errno());
  }
  return { pid: credentials[0]!, uid: credentials[1]! >>> 0, gid: credentials[2]! >>> 0 };
}

/**
 * The supplementary groups of who connected a unix socket, as they were at connect(2).
 *
 * @param fd An accepted unix socket.
 * @throws {ErrnoError} It is no unix socket.
 * @see unix(7), SO_PEERGROUPS
 */
export function peerGroups(fd: number): number[] {
  const libc = symbols();
  for (let room = FEW_GROUPS;;) {
    const groups = new Uint32Array(room);
    const size = new Uint32Array([groups.byteLength]);
    const result = libc.getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, bytesOf(groups), bytesOf(size));
    const count = size[0]! / Uint32Array.BYTES_PER_ELEMENT;
    if (result === 0) return [...groups.subarray(0, count)];
    const errno = libc.errno();
    // With too little room the kernel tells how much it takes.
    if (errno !== ERANGE || count <= room) throw new ErrnoError("getsockopt", errno);
    room = count;
  }
}

/**
 * Takes or gives back a lock on an open file description, without blocking.
 *
 * @param fd An open descriptor.
 * @param operation {@linkcode LOCK_EX} or {@linkcode LOCK_SH} with {@linkcode LOCK_NB}, or {@linkcode LOCK_UN}.
 * @returns `false` when another open file description stands in the way.
 * @throws {ErrnoError} Anything else went wrong.
 * @see flock(2)
 */
export function flock(fd: number, operation: number): boolean {
  const libc = symbols();
  for (;;) {
    if (libc.flock(fd, operation) === 0) return true;
    const errno = libc.errno();
    if (errno === EAGAIN) return false;
    if (errno !== EINTR) throw new ErrnoError("flock", errno);
  }
}

/**
 * Sends bytes with one descriptor over a unix socket, whole or not at all.
 *
 * The receiver gets a descriptor of the same open file description, and with it the same flock(2).
 *
 * @param socket A connected unix stream socket with room in its buffer.
 * @param bytes What to send beside the descriptor; at least one byte.
 * @param fd The descriptor to pass on; it stays open here.
 * @throws {ErrnoError} `EPIPE` when nobody is at the other end.
 * @see unix(7), SCM_RIGHTS
 */
export function sendDescriptor(socket: number, bytes: Uint8Array, fd: number): void {
  const libc = symbols();
  const vector = new BigUint64Array([libc.addressOf(bytes), BigInt(bytes.length)]);
  const control = controlMessage(fd);
  // struct msghdr: name, namelen, iov, iovlen, control, controllen, flags; 8 bytes each on LP64.
  const message = new BigUint64Array([
    0n,
    0n,
    libc.addressOf(bytesOf(vector)),
    1n,
    libc.addressOf(control),
    BigInt(control.length),
    0n,
  ]);
  for (;;) {
    const sent = Number(libc.sendmsg(socket, bytesOf(message), MSG_DONTWAIT | MSG_NOSIGNAL));
    if (sent === bytes.length) return;
    const errno = sent < 0 ? libc.errno() : EAGAIN;
    if (errno !== EINTR) throw new ErrnoError("sendmsg", errno);
  }
}

/**
 * A descriptor that stands for one process for ever, even when its pid is given out again.
 *
 * @param pid The process.
 * @returns `undefined` when there is no such process.
 * @throws {ErrnoError} Anything else went wrong.
 * @see pidfd_open(2)
 */
export function openPidfd(pid: number): number | undefined {
  const libc = symbols();
  const fd = Number(libc.syscall(SYS_PIDFD_OPEN, pid, 0, 0, 0));
  if (fd >= 0) return fd;
  const errno = libc.errno();
  if (errno === ESRCH) return undefined;
  throw new ErrnoError("pidfd_open", errno);
}

/**
 * Sends a signal to the process that a pidfd stands for, and to no other.
 *
 * @param pidfd What {@linkcode openPidfd} gave.
 * @param signal The number of the signal; 0 only checks.
 * @returns `false` when the process has ended.
 * @throws {ErrnoError} `EPERM` when it is not ours to signal.
 * @see pidfd_send_signal(2)
 */
export function signalPidfd(pidfd: number, signal: number): boolean {
  const libc = symbols();
  if (Number(libc.syscall(SYS_PIDFD_SEND_SIGNAL, pidfd, signal, 0, 0)) === 0) return true;
  const errno = libc.errno();
  if (errno === ESRCH) return false;
  throw new ErrnoError("pidfd_send_signal", errno);
}

/**
 * A descriptor of the same open file description as one of another process's, with the same flock(2).
 *
 * @param pidfd The process.
 * @param fd The number of the descriptor there.
 * @throws {ErrnoError} `EBADF` when it has none of that number, `EPERM` when it is not ours to ask.
 * @see pidfd_getfd(2)
 */
export function copyDescriptor(pidfd: number, fd: number): number {
  const libc = symbols();
  const copy = Number(libc.syscall(SYS_PIDFD_GETFD, pidfd, fd, 0, 0));
  if (copy >= 0) return copy;
  throw new ErrnoError("pidfd_getfd", libc.errno());
}

/** One end of a TCP connection. */
export interface Endpoint {
  /** 4 or 16 bytes. */
  address: number[];
  /** The port. */
  port: number;
}

/**
 * Both ends of a TCP connection.
 *
 * @param fd A descriptor.
 * @returns `undefined` when it is none.
 * @see getpeername(2), ip(7), ipv6(7)
 */
export function endpointsOf(fd: number): { peer: Endpoint; local: Endpoint } | undefined {
  const libc = symbols();
  const [peer, local] = [libc.getpeername, libc.getsockname].map((ask) => {
    const address = new Uint8Array(28);
    const size = new Uint32Array([address.length]);
    return ask(fd, address, bytesOf(size)) === 0 ? toEndpoint(address) : undefined;
  });
  return peer === undefined || local === undefined ? undefined : { peer, local };
}

/** struct sockaddr_in or sockaddr_in6: family, port, and for IPv6 a flow label before the address. */
function toEndpoint(bytes: Uint8Array): Endpoint | undefined {
  const family = bytes[0]! | bytes[1]! << 8;
  const port = bytes[2]! << 8 | bytes[3]!;
  if (family === AF_INET) return { address: [...bytes.subarray(4, 8)], port };
  return family === AF_INET6 ? { address: [...bytes.subarray(8, 24)], port } : undefined;
}

/**
 * Looks which descriptors are readable, without waiting.
 *
 * @param entries struct pollfd for each, as two words: the descriptor (negative ones are passed over),
 * then the events asked for; the upper half of the second word is what was found.
 * @returns How many are.
 * @throws {ErrnoError} The look failed.
 * @see poll(2)
 */
export function pollDescriptors(entries: Int32Array): number {
  const libc = symbols();
  const bytes = new Uint8Array(entries.buffer, entries.byteOffset, entries.byteLength);
  const found = libc.poll(bytes, entries.length / 2, 0);
  if (found >= 0) return found;
  const errno = libc.errno();
  if (errno === EINTR) return 0;
  throw new ErrnoError("poll", errno);
}

/**
 * Whether a read of a descriptor would not wait: there is something to read, or its end.
 *
 * @param fd An open descriptor.
 * @throws {ErrnoError} The look failed.
 * @see poll(2), POLLIN
 */
export function isReadable(fd: number): boolean {
  const entry = new Int32Array([fd, POLLIN]);
  pollDescriptors(entry);
  return (entry[1]! >> 16 & POLLIN) !== 0;
}

/**
 * Closes a descriptor that came from here; Deno closes only those that it has opened itself.
 *
 * @param fd What {@linkcode openPidfd} or {@linkcode copyDescriptor} gave.
 * @see close(2)
 */
export function closeDescriptor(fd: number): void {
  symbols().close(fd);
}

/**
 * Makes an empty file that lies in memory and has no path: it is there for as long as anybody has it
 * open.
 *
 * @param name What /proc/PID/fd shows of it, as `/memfd:NAME (deleted)`; ASCII.
 * @returns A descriptor for reading and writing, which no program that is started inherits by itself.
 * @throws {ErrnoError} `EMFILE`, `ENFILE`, `ENOMEM`.
 * @see memfd_create(2)
 */
export function createMemoryFile(name: string): number {
  const libc = symbols();
  const text = new TextEncoder().encode(`${name}\0`);
  const create = (flags: number) =>
    Number(libc.syscall(SYS_MEMFD_CREATE, Number(libc.addressOf(text)), flags, 0, 0));
  let fd = create(MFD_CLOEXEC | MFD_NOEXEC_SEAL);
  // Linux before 6.3 does not know that it might be executed.
  if (fd < 0 && libc.errno() === EINVAL) fd = create(MFD_CLOEXEC);
  if (fd < 0) throw new ErrnoError("memfd_create", libc.errno());
  return fd;
}

/**
 * Writes bytes at a place in a file, all of them.
 *
 * @param fd What {@linkcode createMemoryFile} gave.
 * @param bytes The bytes.
 * @param offset The place, in bytes.
 * @throws {ErrnoError} `ENOSPC`, `ENOMEM`; a part may have been written.
 * @see pwrite(2)
 */
export function writeAt(fd: number, bytes: Uint8Array, offset: number): void {
  const libc = symbols();
  for (let done = 0; done < bytes.length;) {
    const rest = bytes.subarray(done);
    const written = Number(libc.pwrite(fd, rest, rest.length, offset + done));
    if (written >= 0) done += written;
    else if (libc.errno() !== EINTR) throw new ErrnoError("pwrite", libc.errno());
  }
}

/**
 * Makes reads and writes of an open file description return at once, for everybody who has it.
 *
 * A runtime whose own descriptor was given to a child needs it: Deno makes what it gives away block.
 *
 * @param fd A descriptor of it.
 * @throws {ErrnoError} `EBADF` when it is closed.
 * @see fcntl(2), F_SETFL
 */
export function setNonBlocking(fd: number): void {
  const libc = symbols();
  const flags = libc.fcntl(fd, F_GETFL, 0);
  if (flags < 0 || libc.fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
    throw new ErrnoError("fcntl", libc.errno());
  }
}

/** struct cmsghdr (length, level, type) with one int, padded to the next 8 bytes. */
function controlMessage(fd: number): Uint8Array {
  const control = new Uint8Array(new ArrayBuffer(24));
  const view = new DataView(control.buffer);
  view.setBigUint64(0, 20n, true);
  view.setInt32(8, SOL_SOCKET, true);
  view.setInt32(12, SCM_RIGHTS, true);
  view.setInt32(16, fd, true);
  return control;
}

function symbols(): Symbols {
  if (loaded === undefined) {
    throw new Error("Cannot call the C library: loadLibc() was not awaited");
  }
  return loaded;
}

function bytesOf(array: Int32Array | Uint32Array | BigUint64Array): Uint8Array {
  return new Uint8Array(array.buffer);
}

// Debian and its like, then Alpine on both of its machines.
const LIBC_NAMES = ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1"];

async function openLibc(): Promise<Symbols> {
  const open = "Deno" in globalThis ? openWithDeno : await bunOpener();
  const failures: string[] = [];
  for (const name of LIBC_NAMES) {
    try {
      return open(name);
    } catch (error) {
      failures.push((error as Error).message);
    }
  }
  throw new Error(`Cannot open the C library: ${failures.join("; ")}`);
}

interface DenoFfi {
  dlopen(
    name: string,
    symbols: Record<string, { parameters: string[]; result: string }>,
    // deno-lint-ignore no-explicit-any
  ): { symbols: Record<string, (...args: any[]) => any> };
  UnsafePointer: { of(bytes: Uint8Array): unknown; value(pointer: unknown): bigint | number };
  UnsafePointerView: new (pointer: unknown) => { getInt32(): number };
}

function openWithDeno(name: string): Symbols {
  const { dlopen, UnsafePointer, UnsafePointerView } = (globalThis as unknown as { Deno: DenoFfi })
    .Deno;
  const library = dlopen(name, {
    getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
    flock: { parameters: ["i32", "i32"], result: "i32" },
    sendmsg: { parameters: ["i32", "buffer", "i32"], result: "isize" },
    syscall: { parameters: ["isize", "isize", "isize", "isize", "isize"], result: "isize" },
    poll: { parameters: ["buffer", "usize", "i32"], result: "i32" },
    getpeername: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
    getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
    close: { parameters: ["i32"], result: "i32" },
    fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
    pwrite: { parameters: ["i32", "buffer", "usize", "i64"], result: "isize" },
    __errno_location: { parameters: [], result: "pointer" },
  }).symbols;
  return {
    getsockopt: library.getsockopt!,
    flock: library.flock!,
    sendmsg: library.sendmsg!,
    syscall: library.syscall!,
    poll: library.poll!,
    getpeername: library.getpeername!,
    getsockname: library.getsockname!,
    close: library.close!,
    fcntl: library.fcntl!,
    pwrite: library.pwrite!,
    errno: () => new UnsafePointerView(library.__errno_location!()).getInt32(),
    addressOf: (bytes) => BigInt(UnsafePointer.value(UnsafePointer.of(bytes))),
  } as Symbols;
}

interface BunFfi {
  dlopen(
    name: string,
    symbols: Record<string, { args: string[]; returns: string }>,
    // deno-lint-ignore no-explicit-any
  ): { symbols: Record<string, (...args: any[]) => any> };
  ptr(bytes: Uint8Array): number;
  read: { i32(pointer: number, offset: number): number };
}

async function bunOpener(): Promise<(name: string) => Symbols> {
  if (!("bun" in process.versions)) {
    throw new Error("Cannot open the C library: the agent runs under Bun or Deno, not under Node");
  }
  // Not a literal, so that no other runtime and no bundler looks for it.
  const bunFfi = ["bun", "ffi"].join(":");
  const { dlopen, ptr, read } = await import(bunFfi) as BunFfi;
  return (name) => {
    const library = dlopen(name, {
      getsockopt: { args: ["i32", "i32", "i32", "ptr", "ptr"], returns: "i32" },
      flock: { args: ["i32", "i32"], returns: "i32" },
      sendmsg: { args: ["i32", "ptr", "i32"], returns: "i64_fast" },
      syscall: { args: ["i64", "i64", "i64", "i64", "i64"], returns: "i64_fast" },
      poll: { args: ["ptr", "u64", "i32"], returns: "i32" },
      getpeername: { args: ["i32", "ptr", "ptr"], returns: "i32" },
      getsockname: { args: ["i32", "ptr", "ptr"], returns: "i32" },
      close: { args: ["i32"], returns: "i32" },
      fcntl: { args: ["i32", "i32", "i32"], returns: "i32" },
      pwrite: { args: ["i32", "ptr", "u64", "i64"], returns: "i64_fast" },
      __errno_location: { args: [], returns: "ptr" },
    }).symbols;
    return {
      getsockopt: library.getsockopt!,
      flock: library.flock!,
      sendmsg: library.sendmsg!,
      syscall: library.syscall!,
      poll: library.poll!,
      getpeername: library.getpeername!,
      getsockname: library.getsockname!,
      close: library.close!,
      fcntl: library.fcntl!,
      pwrite: library.pwrite!,
      errno: () => read.i32(library.__errno_location!(), 0),
      addressOf: (bytes) => BigInt(ptr(bytes)),
    } as Symbols;
  };
}
