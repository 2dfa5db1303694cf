import { type ChildProcess, execFile, spawn } from "node:child_process";
import { Duplex } from "node:stream";
import { promisify } from "node:util";
import { childExit } from "../support/child.ts";
import { isAlive, killAndConfirm, type ProcessStat, readStat } from "../support/processes.ts";
import { RpcClient } from "../support/rpc_client.ts";

const run = promisify(execFile);

/** The owner of all such sessions. */
export const MORTAL = "mortal";

/** A session whose root is a process of its own, with a lock and a process that it leaves behind. */
export class MortalSession implements AsyncDisposable {
  readonly token: number;
  readonly #relay: ChildProcess;
  /** A busy machine may give its pid to another within a minute. */
  readonly #leftover: ProcessStat | undefined;

  private constructor(relay: ChildProcess, token: number, leftover: ProcessStat | undefined) {
    this.#relay = relay;
    this.token = token;
    this.#leftover = leftover;
  }

  /** Connects through socat(1), claims, and starts a process that carries the session's mark. */
  static async open(socket: string, name: string, parkMs: number): Promise<MortalSession> {
    const relay = spawn("socat", ["-", `UNIX-CONNECT:${socket}`], {
      stdio: ["pipe", "pipe", "ignore"],
    });
    relay.stdin.on("error", () => {});
    const client = new RpcClient(
      Duplex.from({ readable: relay.stdout, writable: relay.stdin }),
    );
    const { session } = await client.request<{ session: { id: string } }>("hello", {
      ...{ protocol: 1, owner: MORTAL, session: "process" },
    });
    const { token } = await client.request("claim", {
      ...{ name, parkMs, onEnd: "kill", graceMs: 5_000 },
    });
    // Not below this process, which may itself run under an sshd: the shell's end gives it to init.
    const script = `SSHLOCK_SESSION=${session.id} sleep 1000 >/dev/null 2>&1 </dev/null & echo $!`;
    const { stdout } = await run("sh", ["-c", script]);
    return new MortalSession(relay, token as number, readStat(Number(stdout)));
  }

  /** Whether the process that it has left behind lives. */
  get hasLeftover(): boolean {
    const { pid, startTicks } = this.#leftover ?? { pid: 0, startTicks: 0 };
    return isAlive(pid) && readStat(pid)?.startTicks === startTicks;
  }

  /** Kills the root. */
  async die(): Promise<void> {
    const exit = childExit(this.#relay);
    this.#relay.kill("SIGKILL");
    await exit;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#relay.kill("SIGKILL");
    if (this.hasLeftover) await killAndConfirm(this.#leftover?.pid as number);
  }
}
