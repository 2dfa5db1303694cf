import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { readlinkSync } from "node:fs";
import { type ChildExit, childExit } from "../support/child.ts";
import { until } from "../support/events.ts";
import { signalPid } from "../support/processes.ts";
import { requires, root } from "../support/requires.ts";

/** A way that packets take. */
export type Direction = "to the host" | "to the controller";

/** Two machines of the network kind, joined by one link: a network namespace for each. */
export interface Link extends AsyncDisposable {
  /** The host's address, as the controller reaches it. */
  readonly hostAddress: string;
  /** What starts a program on the host; it execs. */
  readonly onHost: string[];
  /** What starts a program beside the controller; it execs. */
  readonly onController: string[];
  /** From now on all packets of these directions vanish on the way: no error, no reset, no ARP. */
  lose(...directions: Direction[]): void;
  /** From now on all packets arrive again. */
  heal(): void;
}

const CONTROLLER = { address: "10.98.0.1", mac: "02:00:00:00:00:01", device: "controller0" };
const HOST = { address: "10.98.0.2", mac: "02:00:00:00:00:02", device: "host0" };

// Nobody's: the kernel at the other end drops what is addressed to it without a word.
const NOBODY = "02:00:00:00:00:99";

/** Why no link can be made here, for a test's `skip`. */
export function whyNoLink(): string | undefined {
  const missing = requires(root, "ip", "unshare", "nsenter");
  if (missing !== undefined) return missing;
  const { status, stderr } = spawnSync("unshare", ["--net", "true"], { encoding: "utf8" });
  return status === 0 ? undefined : `needs network namespaces: ${stderr.trim()}`;
}

/**
 * Makes two namespaces and the link between them. They go with the processes that they belong to.
 *
 * Packets are lost by giving the sender a wrong link address for the receiver: this needs no packet
 * filter in the kernel, and loses one direction alone where that is wanted.
 */
export async function makeLink(): Promise<Link> {
  const [controller, host] = await Promise.all([makeNamespace(), makeNamespace()]);
  const onController = enter(controller.pid);
  const onHost = enter(host.pid);
  ip(onController, [
    ...["link", "add", CONTROLLER.device, "address", CONTROLLER.mac, "type", "veth"],
    ...["peer", "name", HOST.device, "address", HOST.mac, "netns", `${host.pid}`],
  ]);
  for (const [inside, end] of [[onController, CONTROLLER], [onHost, HOST]] as const) {
    ip(inside, ["link", "set", "lo", "up"]);
    ip(inside, ["address", "add", `${end.address}/30`, "dev", end.device]);
    ip(inside, ["link", "set", end.device, "up"]);
  }
  const address = (inside: string[], from: typeof HOST, to: typeof HOST, mac: string) =>
    ip(inside, [
      ...["neighbour", "replace", to.address, "lladdr", mac],
      ...["dev", from.device, "nud", "permanent"],
    ]);
  const heal = () => {
    address(onController, CONTROLLER, HOST, HOST.mac);
    address(onHost, HOST, CONTROLLER, CONTROLLER.mac);
  };
  heal();
  return {
    hostAddress: HOST.address,
    onHost,
    onController,
    lose(...directions) {
      if (directions.includes("to the host")) address(onController, CONTROLLER, HOST, NOBODY);
      if (directions.includes("to the controller")) address(onHost, HOST, CONTROLLER, NOBODY);
    },
    heal,
    async [Symbol.asyncDispose]() {
      await Promise.all([end(controller), end(host)]);
    },
  };
}

interface Namespace {
  child: ChildProcess;
  pid: number;
  exit: Promise<ChildExit>;
}

async function makeNamespace(): Promise<Namespace> {
  const child = spawn("unshare", ["--net", "sleep", "infinity"], { stdio: "ignore" });
  const exit = childExit(child);
  const pid = child.pid as number;
  const own = readlinkSync("/proc/self/ns/net");
  await until(() => readlinkSync(`/proc/${pid}/ns/net`) !== own, { what: "a network namespace" });
  return { child, pid, exit };
}

async function end({ pid, exit }: Namespace): Promise<void> {
  signalPid(pid, "SIGKILL");
  await exit;
}

function enter(pid: number): string[] {
  return ["nsenter", `--net=/proc/${pid}/ns/net`];
}

function ip(inside: string[], args: string[]): void {
  const [program, ...rest] = [...inside, "ip", ...args];
  const { status, stderr, error } = spawnSync(program as string, rest, { encoding: "utf8" });
  if (status !== 0) throw new Error(`ip ${args.join(" ")}: ${error?.message ?? stderr.trim()}`);
}
