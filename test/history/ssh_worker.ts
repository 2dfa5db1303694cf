/**
 * One controller: connects with the library, claims, lets commands act on the host, and releases; or
 * leaves processes behind on the host and ends in one of the ways in which controllers end.
 *
 * It ends when standard input does, or after its session has ended. Its only argument is a
 * {@link SshConfig} as JSON.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { Lock, Session, Target, Way as Transport } from "../../controller/mod.ts";
import type { WorkerConfig } from "./local_worker.ts";
import { makeRandom } from "./random.ts";
import { nowNs, Recorder } from "./recorder.ts";

/** How a session ends that leaves processes behind. */
export type Ending =
  | "controller-killed"
  | "controller-stopped"
  | "sshd-killed"
  | "sshd-stopped"
  | "hung-up"
  | "cut-off";

/** What the driver tells this worker. */
export interface SshConfig extends WorkerConfig {
  /** The module of the library. */
  library: string;
  target: Target;
  transport: Transport;
  owner: string;
  /** The program that acts, and its interpreter, on the host. */
  actor: string[];
  silenceMs: number;
  /** How its sessions end; none: they only release. */
  endings: Ending[];
  /** Of 100 locks, how many end otherwise than by release. */
  endingShare: number;
}

const config = JSON.parse(process.argv[2] as string) as SshConfig;
const recorder = new Recorder(config.log);
const random = makeRandom(config.seed);
const [c] = config.clients as [string];
const uid = process.getuid!();
let n = 0;

/** Chains of processes, which a search can miss on a busy host: see docs/testing.md. */
const forking = process.env.SSHLOCK_HISTORY_FORKS === "1" ? ["forking"] : [];

/** Claims that were told that they wait. */
const queued = new Set<number>();
let isEnding = false;
process.stdin.once("end", () => isEnding = true).resume();
// Whatever breaks, breaks the session; the driver starts another controller.
process.on("uncaughtException", (error) => end(error));
await work().catch(end);
process.exit(0);

function end(error: unknown): never {
  // For whoever looks into a run that went wrong.
  process.stderr.write(`${c}: ${error instanceof Error ? error.message : error}\n`);
  process.exit(0);
}

async function work(): Promise<void> {
  const session = await connectAtLast();
  while (!isEnding) {
    const drains = random.below(5) === 0;
    const lock = await claim(session, drains ? "drain" : "kill");
    if (lock !== undefined && await hold(session, lock, drains)) return;
    await delay(random.below(config.pauseUs / 1000));
  }
  await session.close();
}

/** The host may be cut off just now. */
async function connectAtLast(): Promise<Session> {
  const { connect } = await import(config.library) as typeof import("../../controller/mod.ts");
  const { owner, silenceMs, transport } = config;
  for (;;) {
    const session = await connect(config.target, { owner, silenceMs, transport })
      .catch(() => undefined);
    if (session !== undefined) return session;
    if (isEnding) process.exit(0);
    await delay(200);
  }
}

async function claim(session: Session, onEnd: "drain" | "kill"): Promise<Lock | undefined> {
  const l = config.locks[random.below(config.locks.length)]!;
  const waitMs = random.below(100) < config.waiting ? 100 + random.below(3000) : 0;
  const common = { way: config.transport === "bridge" ? "bridge" : "library", uid } as const;
  const { owner } = config;
  recorder.write({ e: "claim", c, n: ++n, l, ...common, owner, shared: false, waits: waitMs > 0 });
  const claimed = n;
  try {
    const lock = await session.claim(l, {
      ...{ waitMs, purpose: `${c}#${n}`, graceMs: 300, onEnd },
      onQueued: () => noteQueued(claimed),
    }) as Lock;
    recorder.write({ e: "granted", c, n, token: lock.token! });
    lock.signal.addEventListener("abort", () => {
      recorder.write({ e: "lost", c, n: claimed, reason: lossOf(lock) });
    });
    return lock;
  } catch (error) {
    const code = (error as Error).name === "LockContendedError" ? "contended" : codeOf(error);
    recorder.write({ e: "refused", c, n, code });
    if (code === "connection") throw error;
    await delay(50);
    return undefined;
  }
}

function lossOf(lock: Lock): string {
  return String((lock.signal.reason as { reason?: string } | undefined)?.reason ?? "unknown");
}

function noteQueued(claimed: number): void {
  if (!queued.has(claimed)) recorder.write({ e: "queued", c, n: claimed });
  queued.add(claimed);
}

function codeOf(error: unknown): string {
  return String((error as { code?: unknown }).code ?? "connection");
}

/** Whether the session is over. */
async function hold(session: Session, lock: Lock, drains: boolean): Promise<boolean> {
  const isToEnd = config.endings.length > 0 && random.below(100) < config.endingShare;
  if (!isToEnd) {
    const ms = random.below(config.holdMs);
    await session.exec(command("child", ms, "plain"), { signal: lock.signal });
    recorder.write({ e: "release", c, n });
    await lock.release();
    recorder.write({ e: "released", c, n });
    return false;
  }
  const { stdout } = await session.exec(`${leaveBehind(drains)} echo $PPID`, {
    signal: lock.signal,
  });
  const sshd = Number(stdout);
  await delay(random.below(40));
  const how = config.endings[random.below(config.endings.length)]!;
  recorder.write({ e: "fault", kind: `session:${how}` });
  if (how !== "controller-stopped") recorder.write({ e: "end", c, how }, nowNs());
  switch (how) {
    case "controller-killed":
      return process.kill(process.pid, "SIGKILL");
    case "hung-up":
      // Not by closing the session: that releases its locks, and a release looks for no leftovers.
      return process.exit(0);
    case "cut-off": // the driver cuts the network when it reads this
    case "controller-stopped":
      process.stdout.write(`${how}\n`);
      break;
    case "sshd-killed":
      process.kill(sshd, "SIGKILL");
      break;
    case "sshd-stopped":
      process.kill(sshd, "SIGSTOP");
      break;
  }
  // By now the lock is lost, or will be found to be.
  const endsAt = performance.now() + 20_000;
  while (!lock.signal.aborted && performance.now() < endsAt) await delay(20);
  return true;
}

/** One to three processes that outlive what started them, each of another kind. */
function leaveBehind(drains: boolean): string {
  // What is waited for has to end by itself.
  const [ms, kinds] = drains
    ? [300, ["plain"]] as const
    : [20_000, ["plain", "stubborn", "stopped", ...forking]] as const;
  const commands = Array.from({ length: 1 + random.below(3) }, (_, index) => {
    const how = kinds[random.below(kinds.length)]!;
    const start = ["nohup", "setsid", ""][random.below(3)]!;
    return `${start} ${command(`left-${index}-${how}`, ms, how)} </dev/null >/dev/null 2>&1 &`;
  });
  // Until the first of them acts, for they start slowly on a busy host.
  return `${commands.join("\n")}\nsleep 0.05;`;
}

function command(by: string, ms: number, how: string): string {
  return [...config.actor, config.log, c, n, by, ms, how].join(" ");
}
