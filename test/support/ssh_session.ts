import { type ChildProcess, spawn } from "node:child_process";
import { Duplex } from "node:stream";
import { type ChildExit, childExit } from "./child.ts";
import type { PrivateSshd } from "./private_sshd.ts";
import { signalPid } from "./processes.ts";
import { RpcClient } from "./rpc_client.ts";

/** One ssh(1) process whose remote command ends in the bridge: an SSH session that claims. */
export interface BridgedSession {
  readonly pid: number;
  readonly client: RpcClient;
  readonly exit: Promise<ChildExit>;
  /** Kills the ssh client, as a crash of its controller would. */
  kill(): Promise<void>;
}

/**
 * Opens an SSH session that runs `prelude` in its shell and then becomes a bridge to the agent.
 *
 * @param sshd Where to.
 * @param prelude Shell commands, such as leaving something in the background.
 * @param bridge The argv of the bridge on the host.
 * @param epilogue Shell commands after the bridge has ended; without them the session ends with it.
 */
export function openBridged(
  sshd: Pick<PrivateSshd, "sshArgs">,
  prelude: string,
  bridge: string[],
  epilogue?: string,
): BridgedSession {
  const quoted = bridge.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");
  const command = epilogue === undefined ? `exec ${quoted}` : `${quoted}\n${epilogue}`;
  const ssh = spawn("ssh", [...sshd.sshArgs, `${prelude}\n${command}`], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exit = childExit(ssh);
  const kill = async () => {
    signalPid(ssh.pid as number, "SIGKILL");
    await exit;
  };
  return { pid: ssh.pid as number, client: new RpcClient(duplexOf(ssh)), exit, kill };
}

function duplexOf(child: ChildProcess): Duplex {
  return Duplex.from({
    readable: child.stdout as NodeJS.ReadableStream,
    writable: child.stdin as NodeJS.WritableStream,
  }) as Duplex;
}
