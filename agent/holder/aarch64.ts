import { Aarch64Assembler } from "./aarch64_assembler.ts";
import type { Program } from "./code.ts";
import {
  CONTROL_BYTES,
  FIRST_STRAY_FD,
  FRAME,
  HEAD_BYTES,
  MINUS_EAGAIN,
  MINUS_EINTR,
  MSG_WAITALL,
  ONE_DESCRIPTOR_LENGTH,
  PR_SET_NAME,
  PR_SET_PTRACER,
  SCM_RIGHTS,
  STRAY_FD_LIMIT,
} from "./frame.ts";
import { AGENT_FD, HOLDER_EXIT, LOCK_FD, ORDER, ORDER_FLAG, REPLY } from "./order.ts";

/** System call numbers. @see syscalls(2) */
const SYS = {
  dup3: 24,
  flock: 32,
  close: 57,
  read: 63,
  write: 64,
  ppoll: 73,
  exit: 93,
  prctl: 167,
  recvmsg: 212,
  close_range: 436,
} as const;

/** Registers with a fixed duty; system calls keep them. Register 8 is the system call's number. */
const NUMBER = 8;
const SCRATCH = 9;
const ARGV0 = 19;
const STRAY = 20;

/**
 * The holder for aarch64. `x86_64.ts` is the same program, step by step.
 *
 * x19 is argv[0], sp the frame.
 *
 * @param origin Offset of the first instruction in the file, in bytes.
 */
export function assembleAarch64(origin: number): Program {
  const a = new Aarch64Assembler(origin);
  prepare(a);
  closeStrays(a);
  receiveOrder(a);
  takeDescriptor(a);
  takeLock(a);
  hold(a);
  end(a);
  answer(a);
  return a.finish();
}

function prepare(a: Aarch64Assembler): void {
  a.load64(ARGV0, 8, "argv[0]: the kernel leaves argc at sp, argv behind it");
  a.subtractFromStack(FRAME.totalBytes, "make room for the frame");
}

function closeStrays(a: Aarch64Assembler): void {
  a.set(0, FIRST_STRAY_FD, "from here");
  a.setAllOnes(1, "to the last one");
  a.set(2, 0, "no flags");
  a.set(NUMBER, SYS.close_range, "close_range(4, ~0, 0)");
  a.syscall("whatever the agent leaked");
  a.branchIfZero(0, "prepare_order", "all closed");
  a.set(STRAY, FIRST_STRAY_FD, "a kernel before 5.9: one by one");
  a.label("close_one");
  a.copy32(0, STRAY, "this one");
  a.set(NUMBER, SYS.close, "close(w20), which need not be open");
  a.syscall("w20 survives it");
  a.add(STRAY, 1, "the next one");
  a.compare(STRAY, STRAY_FD_LIMIT, "at the usual limit?");
  a.branchIf("ne", "close_one", "not yet");
}

function receiveOrder(a: Aarch64Assembler): void {
  a.label("prepare_order");
  a.set(0, PR_SET_PTRACER & 0xffff, "under Yama a process is its ancestors' to ask,");
  a.setUpper(0, PR_SET_PTRACER >>> 16, "and an agent that takes locks over is none:");
  a.setAllOnes64(1, "PR_SET_PTRACER_ANY is -1, whoever has the right without Yama");
  a.set(NUMBER, SYS.prctl, "prctl(PR_SET_PTRACER, -1), for pidfd_getfd");
  a.syscall("without Yama it fails, and is not needed");
  a.address(SCRATCH, FRAME.operation, "the first bytes of the order");
  a.store64(FRAME.headBase, SCRATCH, "go to the frame");
  a.set(SCRATCH, HEAD_BYTES, "operation and flags");
  a.store64(FRAME.headLength, SCRATCH, "are so many bytes");
  a.store64(FRAME.argvBase, ARGV0, "the others replace argv: what ps and pgrep show");
  a.set(SCRATCH, ORDER.argvBytes, "as many as argv[0] of a spare has");
  a.store64(FRAME.argvLength, SCRATCH, "no more");
  a.storeZero64(FRAME.msgName, "no sender address");
  a.storeZero64(FRAME.msgNameLength, "nor room for one");
  a.address(SCRATCH, FRAME.headBase, "the iovec");
  a.store64(FRAME.msgIov, SCRATCH, "starts with the head");
  a.set(SCRATCH, 2, "head and argv");
  a.store64(FRAME.msgIovLength, SCRATCH, "are its two parts");
  a.address(SCRATCH, FRAME.control, "the control message");
  a.store64(FRAME.msgControl, SCRATCH, "is received into the frame too");
  a.set(SCRATCH, CONTROL_BYTES, "room for one descriptor");
  a.store64(FRAME.msgControlLength, SCRATCH, "not two");
  a.storeZero64(FRAME.msgFlags, "set by the kernel");
  a.storeZero64(FRAME.controlLength, "stays 0 if no descriptor comes");
  a.label("receive");
  a.set(0, AGENT_FD, "the agent's socket");
  a.address(1, FRAME.msghdr, "the message");
  a.set(2, MSG_WAITALL, "all of the order at once");
  a.set(NUMBER, SYS.recvmsg, "recvmsg(3, msghdr, MSG_WAITALL)");
  a.syscall("a spare spends its life here");
  a.compare(0, MINUS_EINTR, "interrupted?");
  a.branchIf("eq", "receive", "once more");
  a.compare(0, 0, "bytes received, 0 at the end, or an error");
  a.branchIf("le", "agent_gone", "no agent, no spare");
  a.compare(0, ORDER.totalBytes, "a whole order?");
  a.branchIf("ne", "bad_order", "no");
  a.load64(SCRATCH, FRAME.controlLength, "0 if no descriptor came");
  a.compare(SCRATCH, ONE_DESCRIPTOR_LENGTH, "one descriptor with it?");
  a.branchIf("ne", "bad_order", "none, or two");
  a.load32(SCRATCH, FRAME.controlType, "what it is");
  a.compare(SCRATCH, SCM_RIGHTS, "a descriptor?");
  a.branchIf("ne", "bad_order", "a pidfd (SO_PASSPIDFD) is as long");
}

function takeDescriptor(a: Aarch64Assembler): void {
  a.set(0, PR_SET_NAME, "the name in /proc/PID/comm");
  a.copy64(1, ARGV0, "the kernel takes the first 15 characters of argv[0]");
  a.set(NUMBER, SYS.prctl, "prctl(PR_SET_NAME, argv[0])");
  a.syscall("lslocks shows it; it cannot fail in a way that matters");
  a.load32(0, FRAME.controlFd, "the descriptor that came");
  a.set(1, LOCK_FD, "where people look for it");
  a.set(2, 0, "no flags: nothing is executed from here");
  a.set(NUMBER, SYS.dup3, "dup3(received, 999, 0)");
  a.syscall("both share one open file description");
  a.compare(0, 0, "999, or an error");
  a.branchIf("le", "dup_failed", "RLIMIT_NOFILE");
  a.load32(0, FRAME.controlFd, "the first one");
  a.set(NUMBER, SYS.close, "close(received)");
  a.syscall("fds are 0, 1, 2, 3 and 999 now");
}

function takeLock(a: Aarch64Assembler): void {
  a.label("try");
  a.set(0, LOCK_FD, "the lock file");
  a.load8(1, FRAME.operation, "exclusive or shared, with LOCK_NB");
  a.set(NUMBER, SYS.flock, "flock(999, operation)");
  a.syscall("returns at once");
  a.branchIfZero(0, "locked", "it is ours");
  a.compare(0, MINUS_EINTR, "interrupted?");
  a.branchIf("eq", "try", "once more");
  a.compare(0, MINUS_EAGAIN, "does another have it?");
  a.branchIf("ne", "flock_failed", "no, something is wrong");
  a.load8(SCRATCH, FRAME.flags, "the order's flags");
  a.branchIfBitClear(SCRATCH, ORDER_FLAG.wait, "contended", "we may not wait");
  a.set(SCRATCH, REPLY.waiting.charCodeAt(0), '"W"');
  a.call("answer", "tell the agent that we queue");
  a.branchIf("ne", "agent_gone", "no agent, no waiter");
  a.label("wait");
  a.set(0, LOCK_FD, "the lock file");
  a.load8(1, FRAME.operation, "exclusive or shared");
  a.andThree(1, "LOCK_SH | LOCK_EX: without LOCK_NB");
  a.set(NUMBER, SYS.flock, "flock(999, operation)");
  a.syscall("the kernel queues us and wakes us");
  a.compare(0, MINUS_EINTR, "interrupted?");
  a.branchIf("eq", "wait", "once more");
  a.branchIfNotZero(0, "flock_failed", "out of kernel memory, say");
}

function hold(a: Aarch64Assembler): void {
  a.label("locked");
  a.set(SCRATCH, REPLY.locked.charCodeAt(0), '"L"');
  a.call("answer", "tell the agent");
  a.branchIf("ne", "agent_gone", "it died meanwhile: no lock without an owner");
  a.load8(SCRATCH, FRAME.flags, "the order's flags");
  a.branchIfBitClear(SCRATCH, ORDER_FLAG.tied, "sleep", "not tied to the agent");
  a.label("tied");
  a.set(0, AGENT_FD, "the agent's socket");
  a.address(1, FRAME.reply, "any byte");
  a.set(2, 1, "one of them");
  a.set(NUMBER, SYS.read, "read(3, reply, 1)");
  a.syscall("until the agent cuts the tie, or is gone");
  a.compare(0, MINUS_EINTR, "interrupted?");
  a.branchIf("eq", "tied", "once more");
  a.compare(0, 0, "1 for a byte, 0 at the end, or an error");
  a.branchIf("le", "agent_gone", "the agent is gone, and the lock with us");
  a.label("sleep");
  a.set(0, 0, "no descriptors");
  a.set(1, 0, "none");
  a.set(2, 0, "no timeout");
  a.set(3, 0, "no signal mask");
  a.set(NUMBER, SYS.ppoll, "ppoll(NULL, 0, NULL, NULL)");
  a.syscall("for ever");
  a.branch("sleep", "should a signal ever end it");
}

function end(a: Aarch64Assembler): void {
  a.label("agent_gone");
  a.set(0, HOLDER_EXIT.agentGone, "status");
  a.branch("exit", "end");
  a.label("bad_order");
  a.set(0, HOLDER_EXIT.badOrder, "status");
  a.branch("exit", "end");
  a.label("dup_failed");
  a.set(0, HOLDER_EXIT.dupFailed, "status");
  a.branch("exit", "end");
  a.label("flock_failed");
  a.set(0, HOLDER_EXIT.flockFailed, "status");
  a.branch("exit", "end");
  a.label("contended");
  a.set(SCRATCH, REPLY.busy.charCodeAt(0), '"B"');
  a.call("answer", "tell the agent; we end whether it hears it or not");
  a.set(0, HOLDER_EXIT.contended, "status");
  a.label("exit");
  a.set(NUMBER, SYS.exit, "exit(status)");
  a.syscall("the kernel closes 999: an unshared lock is free");
}

/** Sends the byte in w9 and compares the outcome with 1: "not equal" means that nobody heard it. */
function answer(a: Aarch64Assembler): void {
  a.label("answer");
  a.store8(FRAME.reply, SCRATCH, "write(2) wants it in memory");
  a.label("write");
  a.set(0, AGENT_FD, "the agent's socket");
  a.address(1, FRAME.reply, "the byte");
  a.set(2, 1, "one of them");
  a.set(NUMBER, SYS.write, "write(3, reply, 1)");
  a.syscall("SIGPIPE ends us if it is not ignored, else EPIPE");
  a.compare(0, MINUS_EINTR, "interrupted?");
  a.branchIf("eq", "write", "once more");
  a.compare(0, 1, "sent?");
  a.return("the caller looks at the flags");
}
