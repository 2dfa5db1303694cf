/**
 * What keeps the lock of a `run` without an agent when that `run` is killed: a keeper.
 *
 * The holder of such a lock is tied to whoever has the other end of its socket: `run`, and the keeper
 * that it starts beside. While `run` lives the keeper is a shell that waits for the end of a pipe, as
 * starting this program takes longer than most commands. When `run` is gone the shell becomes
 * `sshlock-agent keep`, which clears away what `run` has left, and the lock goes with it.
 *
 * The command has no part in it: a descriptor that it inherited would be closed by sudo or Python, and
 * kept for ever by a daemon.
 *
 * @module
 */

import { type ChildProcess, spawn } from "node:child_process";
import process from "node:process";
import { setNonBlocking } from "./libc.ts";
import { environmentOutside } from "./nesting.ts";
import { ownCommand } from "./own_command.ts";
import { type ProcessId, readStat } from "./proc.ts";

/**
 * The last line that comes is the command's pid and start time; at the end of the pipe `run` is gone.
 * Signals to all processes of a unit or terminal must not end it before what it looks after.
 */
const WAIT = `trap '' HUP INT QUIT TERM
while read -r line; do command=$line; done
exec "$@" $command`;

/** Keepers of one `run` that somebody may kill: only an attack kills so many. */
const MAX_STARTS = 20;

/** Without it Bun wakes up every second to see whether there is garbage. */
const QUIET_RUNTIME = { BUN_GC_TIMER_DISABLE: "1" };

/** The process that keeps this process's lock should this one be killed. */
export class Keeper {
  readonly #run: ProcessId;
  readonly #session: string;
  #process: ChildProcess | undefined;
  #command: string | undefined;
  #link = -1;
  #starts = 0;

  /**
   * @param run This process.
   * @param session The id that marks its command's processes.
   */
  constructor(run: ProcessId, session: string) {
    this.#run = run;
    this.#session = session;
  }

  /** The pid, while there is one. */
  get pid(): number | undefined {
    return this.#process?.pid;
  }

  /**
   * Ties a holder to the keeper as well. From here on the lock outlives this process.
   *
   * @param link This process's end of the holder's socket.
   */
  hold(link: number): void {
    const previous = this.#process;
    this.#link = link;
    this.#start();
    previous?.removeAllListeners("exit");
    previous?.kill("SIGKILL");
  }

  /**
   * Tells it which process is looked after.
   *
   * @param pid The command.
   */
  watch(pid: number): void {
    this.#command = `${pid} ${readStat(pid)?.startTime ?? 0}\n`;
    this.#tell();
  }

  /** Ends it: nothing is left to look after. */
  close(): void {
    this.#process?.removeAllListeners("exit");
    this.#process?.kill("SIGKILL");
    this.#process = undefined;
  }

  #start(): void {
    this.#starts++;
    const { pid, startTime } = this.#run;
    const keep = [...ownCommand(), "keep", this.#session, `${pid}`, `${startTime}`];
    const keeper = spawn("/bin/sh", ["-c", WAIT, "sshlock-keeper", ...keep], {
      stdio: ["pipe", "ignore", "ignore", this.#link],
      cwd: "/",
      env: { ...environmentOutside(process.env), ...QUIET_RUNTIME },
      // A session of its own: no terminal's signals reach it.
      detached: true,
    });
    setNonBlocking(this.#link);
    this.#process = keeper;
    keeper.on("error", () => {/* without it the lock ends with this process, as it did before */});
    keeper.on("exit", () => {
      if (this.#process === keeper && this.#starts < MAX_STARTS) this.#start();
    });
    keeper.stdin?.on("error", () => {/* its end is told as well */});
    this.#tell();
  }

  #tell(): void {
    if (this.#command !== undefined) this.#process?.stdin?.write(this.#command);
  }
}
