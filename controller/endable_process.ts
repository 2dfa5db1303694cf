/**
 * A command that can be ended: it tells its pid first, and carries a mark that all it starts inherits.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { Transform } from "node:stream";

import { CommandProcesses, type Sideband } from "./command_processes.ts";
import type { RemoteProcess, SshTransport } from "./ssh_transport.ts";

const MARK = "sshlock-pid:";

/** How much may stand before the mark (a greeting in .bashrc), in bytes, before it is no longer looked for. */
const MAX_NOISE_BYTES = 64 * 1024;

/** A command that can be ended by a signal. */
export interface EndableProcess extends RemoteProcess {
  /** Its processes on the host. */
  readonly processes: Pick<CommandProcesses, "signal" | "signalOne" | "list">;
}

/**
 * Starts a command whose processes can be found again and signalled.
 *
 * @param transport The SSH connection.
 * @param sideband The way to the agent.
 * @param command What the user's shell is to read.
 */
export async function startEndable(
  transport: SshTransport,
  sideband: Sideband,
  command: string,
): Promise<EndableProcess> {
  // Two more lines for the shell, no process. The pid goes to standard error, where it is taken out again.
  const mark = randomBytes(8).toString("hex");
  const preface = `export SSHLOCK_COMMAND=${mark}\necho ${MARK}$$ >&2\n`;
  const process = await transport.exec(preface + command);
  let tellPid = (_pid: number) => {};
  const pid = new Promise<number>((resolve) => tellPid = resolve);
  const stderr = process.stderr.pipe(takeOutPid(tellPid));
  const end = new Promise<void>((resolve) => stderr.once("close", () => resolve()));
  return {
    ...process,
    stderr,
    closed: Promise.all([process.closed, end]).then(([exit]) => exit),
    processes: new CommandProcesses({ transport, sideband, process, pid, mark }),
  };
}

/**
 * A command that is not expected to be ended: only SSH's own signals reach it.
 *
 * @param process The command.
 */
export function asEndable(process: RemoteProcess): EndableProcess {
  return {
    ...process,
    processes: {
      signal: (name) => Promise.resolve(void process.signal(name)),
      signalOne: () => Promise.resolve(),
      list: () => Promise.resolve(undefined),
    },
  };
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
