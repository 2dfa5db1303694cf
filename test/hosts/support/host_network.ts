import { spawnSync } from "node:child_process";
import { randomInt } from "node:crypto";
import { networkInterfaces } from "node:os";

/**
 * Connects a network namespace with this one by a pair of virtual devices, with an address for each
 * end and no way further on. It goes with the namespace.
 *
 * @param pid A process in that namespace.
 * @returns The address that the namespace has.
 * @throws {Error} ip(8) failed; the message has its words.
 */
export function connectNamespace(pid: number): string {
  const network = freeNetwork();
  const [here, there] = [`${network}.1`, `${network}.2`];
  // 15 characters at most; a pid is unique here while its namespace lives.
  const device = `slh${pid}`;
  const inside = ["nsenter", "--target", String(pid), "--net"];
  run(["ip", "link", "add", device, "type", "veth", "peer", "name", "host0", "netns", `${pid}`]);
  run(["ip", "address", "add", `${here}/30`, "dev", device]);
  run(["ip", "link", "set", device, "up"]);
  run([...inside, "ip", "address", "add", `${there}/30`, "dev", "host0"]);
  run([...inside, "ip", "link", "set", "host0", "up"]);
  run([...inside, "ip", "link", "set", "lo", "up"]);
  return there;
}

/** Of the addresses that RFC 2544 sets aside for tests of network devices. */
function freeNetwork(): string {
  const taken = Object.values(networkInterfaces()).flat().map((each) => each?.address ?? "");
  for (;;) {
    const network = `198.${randomInt(18, 20)}.${randomInt(256)}`;
    if (!taken.some((address) => address.startsWith(`${network}.`))) return network;
  }
}

function run([program, ...args]: string[]): void {
  const { status, stderr, error } = spawnSync(program!, args, { encoding: "utf8" });
  if (status === 0) return;
  throw new Error(`Cannot run ${program} ${args.join(" ")}: ${error?.message ?? stderr.trim()}`);
}
