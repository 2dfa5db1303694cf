/**
 * Clients that claim by programs: `sshlock-agent run`, the shell protocol, flock(1). Each claims, acts
 * and releases until standard input ends, and kills its program now and then.
 *
 * Its only argument is a {@link ToolConfig} as JSON.
 */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { childExit } from "../support/child.ts";
import { flock } from "../support/flock.ts";
import { isAlive, killAndConfirm, readArgv } from "../support/processes.ts";
import { lockPath, shellLock } from "../support/shell_lock.ts";
import type { WorkerConfig } from "./local_worker.ts";
import { makeRandom, type Random } from "./random.ts";
import { Recorder } from "./recorder.ts";

/** What the driver tells this worker. */
export interface ToolConfig extends WorkerConfig {
  /** The argv of `run` up to its own options. */
  run: string[];
  /** The program that acts, and its interpreter. */
  actor: string[];
  /** Of 100 programs, how many are killed. */
  kills: number;
  /** How long flock(1) and the shell protocol hold a lock, in milliseconds, at most. */
  toolHoldMs: number;
}

interface Client {
  /** Its name, new after each death. */
  c: string;
  n: number;
  random: Random;
}

const config = JSON.parse(process.argv[2] as string) as ToolConfig;
const recorder = new Recorder(config.log);
const uid = process.getuid!();
let isEnding = false;
process.stdin.once("end", () => isEnding = true).resume();
await Promise.all(config.clients.map((name, index) => runClient(name, index)));
process.exit(0);

async function runClient(name: string, index: number): Promise<void> {
  const random = makeRandom(config.seed + index);
  const client = { c: name, n: 0, random };
  const way = name.replace(/[^a-z].*/, "");
  for (let deaths = 0; !isEnding;) {
    const isDead =
      await (way === "run" ? claimByRun : way === "shell" ? claimByShell : claimByFlock)(
        client,
      );
    if (isDead) [client.c, client.n] = [`${name}.${++deaths}`, 0];
    await delay(5 + random.below(config.pauseUs / 1000));
  }
}

function begin(client: Client, way: "run" | "shell" | "flock", waits: boolean): string {
  const { c, random } = client;
  const n = ++client.n;
  // A flock(1) that waits on a file that was taken away gets a lock on nothing: its known flaw.
  const locks = config.locks.filter((name) => way !== "flock" || !config.unlinked.includes(name));
  const l = locks[random.below(locks.length)]!;
  recorder.write({ e: "claim", c, n, l, way, owner: c, uid, shared: false, waits });
  return l;
}

/** The child of `run` acts, and records the grant. */
async function claimByRun(client: Client): Promise<boolean> {
  const { random } = client;
  const isToDie = random.below(100) < config.kills;
  const lock = begin(client, "run", true);
  const { c, n } = client;
  const how = ["plain", "stubborn", "stopped"][isToDie ? random.below(3) : 0]!;
  const ms = isToDie ? 20_000 : random.below(20);
  const [program, ...args] = [
    ...[...config.run, "-w", "3", "--owner", c, "--why", `${c}#${n}`, lock],
    ...[...config.actor, config.log, c, String(n), "child", String(ms), how, "grant"],
  ];
  const child = spawn(program!, args, { stdio: ["ignore", "ignore", "ignore"] });
  const exit = childExit(child);
  if (isToDie) {
    const isActing = () =>
      childrenOf(child.pid!).some((pid) => readArgv(pid)[0] === config.actor[0]);
    while (child.exitCode === null && !isActing()) await delay(2);
    await delay(random.below(30));
    // Without an agent `run` holds the lock itself: then it ends with it, whatever it leaves.
    const isAlone = childrenOf(child.pid!).some((pid) =>
      readArgv(pid)[0]?.startsWith("session-lock-")
    );
    if (child.exitCode === null && !isAlone) {
      recorder.write({ e: "end", c, how: "run-killed" });
      recorder.write({ e: "fault", kind: "run-killed" });
      child.kill("SIGKILL");
    } else {
      // What is stopped would not hear a TERM that is passed on.
      for (const pid of childrenOf(child.pid!)) {
        if (readArgv(pid)[0] === config.actor[0]) await killAndConfirm(pid);
      }
    }
    await exit;
    return true;
  }
  const { code } = await exit;
  if (code !== 0 && code !== 93) {
    const refusal = code === 124 ? "contended" : `exit-${code}`;
    recorder.write({ e: "refused", c, n, code: refusal });
  }
  return false;
}

function childrenOf(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1");
    return text.split(" ").filter((word) => word !== "").map(Number);
  } catch {
    return [];
  }
}

async function claimByShell(client: Client): Promise<boolean> {
  const lock = begin(client, "shell", false);
  const { c, n, random } = client;
  const outcome = await shellLock(config.lockDir, lock);
  if (outcome.kind !== "locked") {
    const code = outcome.kind === "contended" ? "contended" : "lock-file";
    recorder.write({ e: "refused", c, n, code });
    return false;
  }
  recorder.write({ e: "granted", c, n, token: null, joined: false });
  await act(client);
  if (random.below(100) < config.kills) {
    // The shell's connection drops: its holder keeps the lock, which is the protocol's known leak.
    await outcome.lock.endShell();
    await delay(random.below(50));
  }
  recorder.write({ e: "release", c, n });
  await outcome.lock.end();
  return false;
}

async function claimByFlock(client: Client): Promise<boolean> {
  const lock = begin(client, "flock", true);
  const { c, n, random } = client;
  const waitMs = 20 + random.below(500);
  const outcome = await flock(lockPath(config.lockDir, lock), { waitMs }).catch(() => undefined);
  if (outcome?.kind !== "held") {
    const code = outcome === undefined ? "lock-file" : "contended";
    recorder.write({ e: "refused", c, n, code });
    return false;
  }
  recorder.write({ e: "granted", c, n, token: null, joined: false });
  await act(client);
  recorder.write({ e: "release", c, n });
  await outcome.holder.end();
  if (isAlive(outcome.holder.pid)) await killAndConfirm(outcome.holder.pid);
  return false;
}

async function act({ c, n, random }: Client): Promise<void> {
  const endsAt = performance.now() + random.below(config.toolHoldMs);
  do {
    recorder.write({ e: "act", c, n, by: "self" });
    await delay(1 + random.below(4));
  } while (performance.now() < endsAt);
}
