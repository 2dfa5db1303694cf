import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { readlinkSync } from "node:fs";
import { until } from "../support/events.ts";
import { killAndConfirm } from "../support/processes.ts";
import { requires, root } from "../support/requires.ts";

/** A network namespace that controllers are in; the host is at the other end of a cable. */
export interface Network extends AsyncDisposable {
  /** The host's address, as the controllers see it. */
  readonly hostAddress: string;
  /** What a command line begins with that is to run among the controllers. */
  readonly prefix: readonly string[];
  /** Pulls the cable out or puts it in: meanwhile all packets are lost, and nobody is told. */
  setLink(isUp: boolean): void;
}

/** Why no such network can be made here; `undefined` when it can. */
export function whyNoNetwork(): string | undefined {
  const missing = requires(root, "ip", "unshare", "nsenter");
  if (missing !== undefined) return missing;
  const { status, stderr } = spawnSync("unshare", ["--net", "true"]);
  return status === 0 ? undefined : `needs network namespaces: ${String(stderr).trim()}`;
}

/** How many were made here. */
let made = 0;

/**
 * Makes a network namespace with a cable to this one. It ends with the process that keeps it.
 *
 * @throws {Error} ip(8) could not make it.
 */
export async function makeNetwork(): Promise<Network> {
  const keeper = spawn("unshare", ["--net", "sleep", "infinity"], { stdio: "ignore" });
  await until(() => namespaceOf(keeper) !== namespaceOf(process), { what: "a network namespace" });
  const pid = String(keeper.pid);
  const prefix = ["nsenter", "--target", pid, "--net", "--"];
  // Of the addresses that are set aside for benchmarks; a cable needs four of them. A process may
  // have several: runs go on side by side.
  const id = (process.pid + 4096 * made++) % 16_384;
  const address = (last: number) => `198.18.${id >> 6}.${((id * 4) & 255) + last}`;
  const cable = `sshlock${id}`;
  try {
    run("ip", "link", "add", cable, "type", "veth", "peer", "name", "host", "netns", pid);
    run("ip", "address", "add", `${address(1)}/30`, "dev", cable);
    run("ip", "link", "set", cable, "up");
    run(...prefix, "ip", "address", "add", `${address(2)}/30`, "dev", "host");
    run(...prefix, "ip", "link", "set", "lo", "up");
    run(...prefix, "ip", "link", "set", "host", "up");
  } catch (error) {
    await killAndConfirm(keeper.pid!);
    throw error;
  }
  return {
    hostAddress: address(1),
    prefix,
    setLink: (isUp) => run(...prefix, "ip", "link", "set", "host", isUp ? "up" : "down"),
    [Symbol.asyncDispose]: async () => {
      spawnSync("ip", ["link", "delete", cable]);
      await killAndConfirm(keeper.pid!);
    },
  };
}

function namespaceOf({ pid }: ChildProcess | NodeJS.Process): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`);
  } catch {
    return undefined;
  }
}

function run(...words: string[]): void {
  const [program, ...args] = words;
  const { status, stderr } = spawnSync(program!, args);
  if (status !== 0) throw new Error(`Cannot run ${words.join(" ")}: ${String(stderr).trim()}`);
}
