/** Processes in a pid namespace of their own, on this machine's files: the least that a container is. */

import { type ChildProcess, spawn } from "node:child_process";
import { type ChildExit, childExit, eachLine } from "../../support/child.ts";
import { EventLog, until } from "../../support/events.ts";
import { descendants, killAndConfirm, signalPid } from "../../support/processes.ts";
import { requires, root } from "../../support/requires.ts";

/** A program in a container. */
export interface ContainedProcess {
  readonly child: ChildProcess;
  readonly out: EventLog<string>;
  readonly err: EventLog<string>;
  readonly exit: Promise<ChildExit>;
  /** Its pid outside, once it runs. */
  pid(): Promise<number>;
}

/** A pid namespace with its own /proc. Disposing of it ends all that runs in it. */
export interface Container extends AsyncDisposable {
  /** Starts a program in it. */
  start(...command: string[]): ContainedProcess;
}

/** Why no container can be made here, or `undefined`. */
export function whyNoContainers(): string | undefined {
  return requires(root, "unshare", "nsenter", "setpriv");
}

/** Makes a container. It ends with this process at the latest. */
export async function startContainer(): Promise<Container> {
  const child = spawn("setpriv", [
    ...["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"],
    ...["sh", "-c", "echo up; exec sleep infinity"],
  ], { stdio: ["ignore", "pipe", "ignore"] });
  const exit = childExit(child);
  const out = new EventLog<string>();
  eachLine(child.stdout, (line) => out.push(line));
  exit.then(() => out.end("the container has ended"), (error) => out.end(String(error)));
  await out.waitFor((line) => line === "up", { what: "the container" });
  const first = descendants(child.pid!)[0]!.pid;
  const started: ChildProcess[] = [];
  return {
    start: (...command) => {
      const contained = startIn(first, command);
      started.push(contained.child);
      return contained;
    },
    async [Symbol.asyncDispose]() {
      const inside = descendants(first);
      signalPid(child.pid!, "SIGKILL");
      await exit;
      for (const { pid } of inside) await killAndConfirm(pid);
      for (const each of started) each.kill("SIGKILL");
    },
  };
}

function startIn(target: number, command: string[]): ContainedProcess {
  const args = ["--target", String(target), "--pid", "--mount", ...command];
  const child = spawn("nsenter", args, { stdio: ["pipe", "pipe", "pipe"] });
  child.stdin.on("error", () => {}); // EPIPE once it has ended
  const exit = childExit(child);
  const [out, err] = [new EventLog<string>(), new EventLog<string>()];
  eachLine(child.stdout, (line) => out.push(line));
  eachLine(child.stderr, (line) => err.push(line));
  // nsenter(1) forks: what it starts is in the namespace, itself is not.
  const pid = () =>
    until(() => descendants(child.pid!)[0]?.pid, { what: `the pid of ${command[0]}` });
  return { child, out, err, exit, pid };
}
