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
import { AGENT_FD, FLOCK, HOLDER_EXIT, LOCK_FD, ORDER, ORDER_FLAG, REPLY } from "./order.ts";
import { X86Assembler } from "./x86_64_assembler.ts";

/** System call numbers. @see syscalls(2) */
const SYS = {
  read: 0,
  write: 1,
  close: 3,
  recvmsg: 47,
  exit: 60,
  flock: 73,
  prctl: 157,
  ppoll: 271,
  dup3: 292,
  close_range: 436,
} as const;

/**
 * The holder for x86-64. `aarch64.ts` is the same program, step by step.
 *
 * rbx is argv[0], rbp the frame; system calls keep both.
 *
 * @param origin Offset of the first instruction in the file, in bytes.
 */
export function assembleX86(origin: number): Program {
  const a = new X86Assembler(origin);
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

function prepare(a: X86Assembler): void {
  a.loadFromStack("rbx", 8, "argv[0]: the kernel leaves argc at rsp, argv behind it");
  a.subtract64("rsp", FRAME.totalBytes, "make room for the frame");
  a.copy64("rbp", "rsp", "calls move rsp, the frame stays");
}

function closeStrays(a: X86Assembler): void {
  a.set("edi", FIRST_STRAY_FD, "from here");
  a.set("esi", -1, "to the last one");
  a.clear("edx", "no flags");
  a.set("eax", SYS.close_range, "close_range(4, ~0, 0)");
  a.syscall("whatever the agent leaked");
  a.test("eax", "0 if it worked");
  a.jumpIf("je", "prepare_order", "all closed");
  a.label("close_one"); // a kernel before 5.9; edi is still the first one
  a.set("eax", SYS.close, "close(edi), which need not be open");
  a.syscall("edi survives it");
  a.increment("edi", "the next one");
  a.compareWide("edi", STRAY_FD_LIMIT, "at the usual limit?");
  a.jumpIf("jne", "close_one", "not yet");
}

function receiveOrder(a: X86Assembler): void {
  a.label("prepare_order");
  a.set("edi", PR_SET_PTRACER, "under Yama a process is its ancestors' to ask");
  a.clear("esi", "and an agent that takes locks over is none:");
  a.subtract64("rsi", 1, "PR_SET_PTRACER_ANY is -1, whoever has the right without Yama");
  a.set("eax", SYS.prctl, "prctl(PR_SET_PTRACER, -1), for pidfd_getfd");
  a.syscall("without Yama it fails, and is not needed");
  a.address("rax", FRAME.operation, "the first bytes of the order");
  a.store64(FRAME.headBase, "rax", "go to the frame");
  a.store64Value(FRAME.headLength, HEAD_BYTES, "operation and flags");
  a.store64(FRAME.argvBase, "rbx", "the others replace argv: what ps and pgrep show");
  a.store64Value(FRAME.argvLength, ORDER.argvBytes, "as many as argv[0] of a spare has");
  a.store64Value(FRAME.msgName, 0, "no sender address");
  a.store64Value(FRAME.msgNameLength, 0, "nor room for one");
  a.address("rax", FRAME.headBase, "the iovec");
  a.store64(FRAME.msgIov, "rax", "starts with the head");
  a.store64Value(FRAME.msgIovLength, 2, "head and argv");
  a.address("rax", FRAME.control, "the control message");
  a.store64(FRAME.msgControl, "rax", "is received into the frame too");
  a.store64Value(FRAME.msgControlLength, CONTROL_BYTES, "room for one descriptor");
  a.store64Value(FRAME.msgFlags, 0, "set by the kernel");
  a.store64Value(FRAME.controlLength, 0, "stays 0 if no descriptor comes");
  a.label("receive");
  a.set("edi", AGENT_FD, "the agent's socket");
  a.address("rsi", FRAME.msghdr, "the message");
  a.set("edx", MSG_WAITALL, "all of the order at once");
  a.set("eax", SYS.recvmsg, "recvmsg(3, msghdr, MSG_WAITALL)");
  a.syscall("a spare spends its life here");
  a.compare("eax", MINUS_EINTR, "interrupted?");
  a.jumpIf("je", "receive", "once more");
  a.test("eax", "bytes received, 0 at the end, or an error");
  a.jumpIf("jle", "agent_gone", "no agent, no spare");
  a.compare("eax", ORDER.totalBytes, "a whole order?");
  a.jumpIf("jne", "bad_order", "no");
  a.compareStored64(FRAME.controlLength, ONE_DESCRIPTOR_LENGTH, "one descriptor with it?");
  a.jumpIf("jne", "bad_order", "none, or two");
  a.compareStored32(FRAME.controlType, SCM_RIGHTS, "is it one?");
  a.jumpIf("jne", "bad_order", "a pidfd (SO_PASSPIDFD) is as long");
}

function takeDescriptor(a: X86Assembler): void {
  a.set("edi", PR_SET_NAME, "the name in /proc/PID/comm");
  a.copy64("rsi", "rbx", "the kernel takes the first 15 characters of argv[0]");
  a.set("eax", SYS.prctl, "prctl(PR_SET_NAME, argv[0])");
  a.syscall("lslocks shows it; it cannot fail in a way that matters");
  a.load32("edi", FRAME.controlFd, "the descriptor that came");
  a.set("esi", LOCK_FD, "where people look for it");
  a.clear("edx", "no flags: nothing is executed from here");
  a.set("eax", SYS.dup3, "dup3(received, 999, 0)");
  a.syscall("both share one open file description");
  a.test("eax", "999, or an error");
  a.jumpIf("jle", "dup_failed", "RLIMIT_NOFILE");
  a.load32("edi", FRAME.controlFd, "the first one");
  a.set("eax", SYS.close, "close(received)");
  a.syscall("fds are 0, 1, 2, 3 and 999 now");
}

function takeLock(a: X86Assembler): void {
  a.label("try");
  a.set("edi", LOCK_FD, "the lock file");
  a.load8("esi", FRAME.operation, "exclusive or shared, with LOCK_NB");
  a.set("eax", SYS.flock, "flock(999, operation)");
  a.syscall("returns at once");
  a.test("eax", "0 if it is ours");
  a.jumpIf("je", "locked", "it is");
  a.compare("eax", MINUS_EINTR, "interrupted?");
  a.jumpIf("je", "try", "once more");
  a.compare("eax", MINUS_EAGAIN, "does another have it?");
  a.jumpIf("jne", "flock_failed", "no, something is wrong");
  a.testStored8(FRAME.flags, ORDER_FLAG.wait, "may we wait?");
  a.jumpIf("je", "contended", "no");
  a.store8Value(FRAME.reply, REPLY.waiting.charCodeAt(0), '"W"');
  a.call("answer", "tell the agent that we queue");
  a.jumpIf("jne", "agent_gone", "no agent, no waiter");
  a.label("wait");
  a.set("edi", LOCK_FD, "the lock file");
  a.load8("esi", FRAME.operation, "exclusive or shared");
  a.and("esi", FLOCK.exclusive | FLOCK.shared, "without LOCK_NB");
  a.set("eax", SYS.flock, "flock(999, operation)");
  a.syscall("the kernel queues us and wakes us");
  a.compare("eax", MINUS_EINTR, "interrupted?");
  a.jumpIf("je", "wait", "once more");
  a.test("eax", "0 if it is ours now");
  a.jumpIf("jne", "flock_failed", "out of kernel memory, say");
}

function hold(a: X86Assembler): void {
  a.label("locked");
  a.store8Value(FRAME.reply, REPLY.locked.charCodeAt(0), '"L"');
  a.call("answer", "tell the agent");
  a.jumpIf("jne", "agent_gone", "it died meanwhile: no lock without an owner");
  a.testStored8(FRAME.flags, ORDER_FLAG.tied, "tied to the agent?");
  a.jumpIf("je", "sleep", "no");
  a.label("tied");
  a.set("edi", AGENT_FD, "the agent's socket");
  a.address("rsi", FRAME.reply, "any byte");
  a.set("edx", 1, "one of them");
  a.set("eax", SYS.read, "read(3, reply, 1)");
  a.syscall("until the agent cuts the tie, or is gone");
  a.compare("eax", MINUS_EINTR, "interrupted?");
  a.jumpIf("je", "tied", "once more");
  a.test("eax", "1 for a byte, 0 at the end, or an error");
  a.jumpIf("jle", "agent_gone", "the agent is gone, and the lock with us");
  a.label("sleep");
  a.clear("edi", "no descriptors");
  a.clear("esi", "none");
  a.clear("edx", "no timeout");
  a.clearR10("no signal mask");
  a.set("eax", SYS.ppoll, "ppoll(NULL, 0, NULL, NULL)");
  a.syscall("for ever");
  a.jump("sleep", "should a signal ever end it");
}

function end(a: X86Assembler): void {
  a.label("agent_gone");
  a.set("edi", HOLDER_EXIT.agentGone, "status");
  a.jump("exit", "end");
  a.label("bad_order");
  a.set("edi", HOLDER_EXIT.badOrder, "status");
  a.jump("exit", "end");
  a.label("dup_failed");
  a.set("edi", HOLDER_EXIT.dupFailed, "status");
  a.jump("exit", "end");
  a.label("flock_failed");
  a.set("edi", HOLDER_EXIT.flockFailed, "status");
  a.jump("exit", "end");
  a.label("contended");
  a.store8Value(FRAME.reply, REPLY.busy.charCodeAt(0), '"B"');
  a.call("answer", "tell the agent; we end whether it hears it or not");
  a.set("edi", HOLDER_EXIT.contended, "status");
  a.label("exit");
  a.set("eax", SYS.exit, "exit(status)");
  a.syscall("the kernel closes 999: an unshared lock is free");
}

/** Sends the reply byte and compares the outcome with 1: "not equal" means that nobody heard it. */
function answer(a: X86Assembler): void {
  a.label("answer");
  a.set("edi", AGENT_FD, "the agent's socket");
  a.address("rsi", FRAME.reply, "the byte");
  a.set("edx", 1, "one of them");
  a.set("eax", SYS.write, "write(3, reply, 1)");
  a.syscall("SIGPIPE ends us if it is not ignored, else EPIPE");
  a.compare("eax", MINUS_EINTR, "interrupted?");
  a.jumpIf("je", "answer", "once more");
  a.compare("eax", 1, "sent?");
  a.return("the caller looks at the flags");
}
