import {
  chmodSync,
  closeSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import {
  freeze,
  processesWithLockIn,
  readArgv,
  readStat,
  signalPid,
} from "../support/processes.ts";
import { lockPath } from "../support/shell_lock.ts";
import { replacedFault } from "./claims.ts";
import type { Host } from "./host.ts";
import type { Network } from "./network.ts";
import type { Random } from "./random.ts";
import { nowNs, type Recorder } from "./recorder.ts";

/** What faults are done to. */
export interface FaultTargets {
  host: Host;
  network: Network | undefined;
  random: Random;
  recorder: Recorder;
  locks: string[];
  /** The locks whose files are taken away. */
  unlinked: string[];
  /** Processes that are controllers: they may be stopped. */
  controllers(): number[];
  /** Kills a controller process with all its clients, and starts another. */
  killController(): Promise<boolean>;
  /** Processes of sshd that serve a session. */
  sshdSessions(): number[];
}

/** Does one fault; `false` when there was nothing to do it to, or when it is recorded already. */
export type Fault = (targets: FaultTargets) => Promise<boolean | void>;

/**
 * Time in which an agent finds out that a holder that it has adopted was killed, with reserve, in
 * milliseconds. An agent and a holder of its that are killed at once free the lock: the one case that
 * is left to the token.
 */
const holderReplacedMs = 1_500;

/**
 * How long an agent that nobody has ended stays stopped beside its successor, in milliseconds: until
 * its controllers have given it up.
 */
const supersededMs = 2_500;

/** Faults that are done to controllers and to what is between them and the host. */
export const controllerFaults: readonly string[] = [
  ...["controller-killed", "controller-stopped", "sshd-killed", "sshd-stopped"],
  ...["packets-lost", "partition"],
];

/** All faults, by name. */
export const faults: Record<string, Fault> = {
  "agent-killed": async ({ host, random }) => {
    await host.endAgent("SIGKILL");
    await delay(random.below(4) * random.below(50));
    await host.startAgent();
    return false;
  },
  "agent-restarted": async ({ host }) => {
    await host.endAgent("SIGTERM");
    await host.startAgent();
    return false;
  },
  "agent-stopped": async ({ host, random }) => {
    host.signalAgent("SIGSTOP");
    await delay(20 + random.below(random.below(3) === 0 ? 1500 : 100));
    host.signalAgent("SIGCONT");
  },
  // A cleaner takes the run file away while the agent is stopped: a new one starts beside it.
  "agent-superseded": async ({ host }) => {
    await host.supersedeAgent(supersededMs);
    return false;
  },
  "holder-killed": ({ host, random }) => {
    const holder = pick(holdersIn(host), random);
    if (holder === undefined) return Promise.resolve(false);
    host.mayDieAt = performance.now() + holderReplacedMs;
    return Promise.resolve(signalPid(holder, "SIGKILL"));
  },
  "holder-stopped": async ({ host, random }) => {
    const holder = pick(holdersIn(host), random);
    if (holder === undefined || !signalPid(holder, "SIGSTOP")) return false;
    await delay(random.below(200));
    signalPid(holder, "SIGCONT");
  },
  // For good: only its end, or an unlock that needs no answer of it, frees its lock.
  "holder-frozen": async ({ host, random }) => {
    const holder = pick(holdersIn(host).filter(hasLock), random);
    if (holder === undefined || !await freeze(holder)) return false;
    if (isRecorded(host, holder)) return;
    // It may not have answered: its claim would wait for that as long as it is stopped.
    signalPid(holder, "SIGCONT");
    return false;
  },
  "spare-holder-killed": async ({ host, random }) => {
    // There is none while its successor starts.
    for (let tries = 0; tries < 20; tries++) {
      const spare = pick(childrenOf(host.pid).filter(isSpare), random);
      if (spare !== undefined && signalPid(spare, "SIGKILL")) return;
      await delay(5);
    }
    return false;
  },
  "controller-killed": ({ killController }) => killController(),
  "controller-stopped": async ({ controllers, random }) => {
    const pid = pick(controllers(), random);
    if (pid === undefined || !signalPid(pid, "SIGSTOP")) return false;
    await delay(20 + random.below(random.below(4) === 0 ? 4000 : 200));
    signalPid(pid, "SIGCONT");
  },
  "sshd-killed": ({ sshdSessions, random }) => {
    const pid = pick(sshdSessions(), random);
    return Promise.resolve(pid !== undefined && signalPid(pid, "SIGKILL"));
  },
  "sshd-stopped": async ({ sshdSessions, random }) => {
    const pid = pick(sshdSessions(), random);
    if (pid === undefined || !signalPid(pid, "SIGSTOP")) return false;
    await delay(20 + random.below(random.below(3) === 0 ? 4000 : 500));
    signalPid(pid, "SIGCONT");
  },
  "packets-lost": async ({ network, random }) => {
    if (network === undefined) return false;
    for (let bursts = 1 + random.below(4); bursts > 0; bursts--) {
      network.setLink(false);
      await delay(10 + random.below(120));
      network.setLink(true);
      await delay(random.below(60));
    }
  },
  "partition": async ({ network, random }) => {
    if (network === undefined) return false;
    network.setLink(false);
    await delay(2500 + random.below(2500));
    network.setLink(true);
  },
  "out-of-bytes": async ({ host, random }) => {
    if (host.tmpfs === undefined) return false;
    await whileFull(join(host.tmpfs, "filler"), random);
  },
  "out-of-inodes": async ({ host, random }) => {
    if (host.tmpfs === undefined) return false;
    const folder = host.dirs.stateDir;
    const name = (index: number) => join(folder, `filler-${index}`);
    let count = 0;
    untilItFails(() => writeFileSync(name(count++), ""));
    await delay(50 + random.below(300));
    for (const index of Array(count).keys()) rmSync(name(index), { force: true });
  },
  "out-of-descriptors": async ({ host, random }) => {
    const sockets: Socket[] = [];
    for (let index = 0; index < 1200; index++) sockets.push(openIdle(host.dirs.socket));
    await delay(200 + random.below(300));
    for (const socket of sockets) socket.destroy();
  },
  "clock-forward": ({ host }) => Promise.resolve(host.signalAgent("SIGUSR2")),
  "clock-back": ({ host }) => Promise.resolve(host.signalAgent("SIGWINCH")),
  "lock-file-truncated": ({ host, locks, random }) =>
    Promise.resolve(tryOn(host, pick(locks, random)!, (path) => truncateSync(path))),
  "lock-file-chmod": async ({ host, locks, random }) => {
    const lock = pick(locks, random)!;
    if (!tryOn(host, lock, (path) => chmodSync(path, 0))) return false;
    await delay(random.below(100));
    tryOn(host, lock, (path) => chmodSync(path, 0o660));
  },
  [replacedFault]: ({ host, unlinked, random, recorder }) => {
    const lock = pick(unlinked, random);
    if (lock === undefined) return Promise.resolve(false);
    const t = nowNs();
    tryOn(host, lock, (path) => unlinkSync(path));
    recorder.write({ e: "fault", kind: replacedFault, l: lock, until: nowNs() }, t);
    return Promise.resolve(false);
  },
};

/** The agent's holders, those that wait included. */
function holdersIn(host: Host): number[] {
  return processesWithLockIn(host.dirs.lockDir)
    .filter((pid) => readStat(pid)?.comm.startsWith("session-lock-") === true);
}

function childrenOf(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1");
    return text.split(" ").filter((word) => word !== "").map(Number);
  } catch {
    return [];
  }
}

/** Whether it is a holder that has its lock, and does not wait for it. */
function hasLock(pid: number): boolean {
  try {
    return /^lock:/m.test(readFileSync(`/proc/${pid}/fdinfo/999`, "latin1"));
  } catch {
    return false;
  }
}

/** Whether a record names it as the holder: then it has answered. */
function isRecorded({ dirs }: Host, pid: number): boolean {
  const name = readArgv(pid)[0]?.replace("session-lock-", "") ?? "";
  try {
    const text = readFileSync(join(dirs.runtimeDir, "locks", `${name}.json`), "utf8");
    const { ownerships } = JSON.parse(text) as { ownerships: { holder: { pid: number } }[] };
    return ownerships.some(({ holder }) => holder.pid === pid);
  } catch {
    return false;
  }
}

function isSpare(pid: number): boolean {
  return readArgv(pid)[0]?.startsWith("sshlock-spare") ?? false;
}

function pick<T>(list: readonly T[], random: Random): T | undefined {
  return list[random.below(Math.max(1, list.length))];
}

/** A file that is not there (yet, or any more) cannot be hit. */
function tryOn(host: Host, lock: string, hit: (path: string) => void): boolean {
  try {
    hit(lockPath(host.dirs.lockDir, lock));
    return true;
  } catch {
    return false;
  }
}

async function whileFull(path: string, random: Random): Promise<void> {
  const fd = openSync(path, "w");
  const block = Buffer.alloc(4096);
  try {
    untilItFails(() => {
      if (writeSync(fd, block) < block.length) throw new Error("full");
    });
    await delay(50 + random.below(300));
  } finally {
    closeSync(fd);
    rmSync(path);
  }
}

function untilItFails(step: () => void): void {
  try {
    for (;;) step();
  } catch { /* full */ }
}

function openIdle(path: string): Socket {
  const socket = connect(path);
  socket.on("error", () => {/* refused: that is what it is for */});
  socket.resume();
  return socket;
}
