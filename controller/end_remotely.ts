/**
 * Ends a command on the host: TERM, then KILL, then the channel.
 *
 * The SSH protocol has a request for signals, but OpenSSH refuses it in root's sessions, and root is
 * who administers hosts. So a command that may have to be ended tells its pid first, and a second
 * command signals its process group, which is a session of its own under sshd. What has left that
 * group (setsid(2)) does not get the signal.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { Transform } from "node:stream";

import type { RemoteProcess, SshTransport } from "./ssh_transport.ts";

const MARK = "sshlock-pid:";

/** How much may stand before the mark (a greeting in .bashrc), in bytes, before it is no longer looked for. */
const MAX_NOISE_BYTES = 64 * 1024;

/** Time for the status to come after KILL, in milliseconds. */
const AFTER_KILL_MS = 1_000;

/** Time for the pid to be told, in milliseconds; a shell that does not know `$$` never tells it. */
const PID_LIMIT_MS = 2_000;

/** A command that can be ended by a signal. */
export interface EndableProcess extends RemoteProcess {
  /** Sends a signal to its process group, as far as the host lets us. */
  end(signal: string): void;
}

/**
 * Starts a command whose process group can be signalled by whoever may log in.
 *
 * @param transport The SSH connection.
 * @param command What the user's shell is to read.
 */
export async function startEndable(
  transport: SshTransport,
  command: string,
): Promise<EndableProcess> {
  // One more line for the shell, no process. It goes to standard error, where it is taken out again.
  const process = await transport.exec(`echo ${MARK}$$ >&2\n${command}`);
  let tellPid = (_pid: number) => {};
  const pid = new Promise<number>((resolve) => tellPid = resolve);
  const stderr = process.stderr.pipe(takeOutPid(tellPid));
  const end = new Promise<void>((resolve) => stderr.once("close", () => resolve()));
  return {
    ...process,
    stderr,
    closed: Promise.all([process.closed, end]).then(([exit]) => exit),
    end: (signal) => {
      // The login shell may not have come to our line yet.
      within(pid, PID_LIMIT_MS)
        .then((known) => killGroup(transport, known, signal))
        .catch(() => process.signal(signal));
    },
  };
}

/**
 * Ends a command and waits until its channel is closed.
 *
 * @param process The command.
 * @param killAfterMs Time between TERM and KILL, in milliseconds.
 */
export async function endRemotely(process: EndableProcess, killAfterMs: number): Promise<void> {
  // What nobody reads any more must not keep the channel from closing.
  process.stdout.resume();
  process.stderr.resume();
  process.end("TERM");
  if (await isClosedWithin(process, killAfterMs)) return;
  process.end("KILL");
  if (await isClosedWithin(process, AFTER_KILL_MS)) return;
  process.close();
  await isClosedWithin(process, AFTER_KILL_MS);
}

/** The pid cannot have been reused: while the channel is open, sshd has not waited for the process. */
async function killGroup(
  transport: SshTransport,
  pid: number | undefined,
  signal: string,
): Promise<void> {
  if (pid === undefined) throw new Error("the pid is not known");
  const killer = await transport.exec(`kill -s ${signal} -- -${pid}`);
  killer.stdin.end();
  killer.stdout.resume();
  killer.stderr.resume();
  await killer.closed;
}

function takeOutPid(onPid: (pid: number) => void): Transform {
  let held: Buffer | undefined = Buffer.alloc(0);
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      if (held === undefined) return done(null, chunk);
      held = Buffer.concat([held, chunk]);
      const text = held.toString("latin1");
      const line = new RegExp(`${MARK}(\\d+)\\r?\\n`).exec(text);
      if (line === null && held.length <= MAX_NOISE_BYTES) return done();
      const all = held;
      held = undefined;
      if (line === null) return done(null, all);
      onPid(Number(line[1]));
      const rest = [all.subarray(0, line.index), all.subarray(line.index + line[0].length)];
      done(null, Buffer.concat(rest));
    },
    flush(done) {
      done(null, held ?? Buffer.alloc(0));
    },
  });
}

async function isClosedWithin(process: RemoteProcess, ms: number): Promise<boolean> {
  return await within(process.closed, ms) !== undefined;
}

/** What a promise resolves to within a time, else `undefined`. */
async function within<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<undefined>((resolve) =>
    timer = setTimeout(() => resolve(undefined), ms)
  );
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
