/**
 * Many clients of the agent in one process: each has a connection of its own, claims, acts and
 * releases, again and again until standard input ends.
 *
 * The clients are what acts, so nothing of a session is left when this process is gone. Its only
 * argument is a {@link LocalConfig} as JSON.
 */
import { setTimeout as delay } from "node:timers/promises";
import { AgentClient, type Held, type Wish } from "./agent_client.ts";
import { connectLean } from "./lean_connection.ts";
import { makeRandom, type Random } from "./random.ts";
import { Recorder } from "./recorder.ts";

/** What the driver tells a worker. */
export interface WorkerConfig {
  /** Names of its clients. */
  clients: string[];
  seed: number;
  /** The file that it records in. */
  log: string;
  socket: string;
  lockDir: string;
  locks: string[];
  /** Those of them whose files are taken away. */
  unlinked: string[];
  /** Owners that sessions share: claims under one of them may join. */
  owners: string[];
  /** Microseconds between a release and the next claim, at most. */
  pauseUs: number;
  /** Share of claims, of 100, that wait. */
  waiting: number;
  /** How long most of these wait, in milliseconds; some wait 3 s. */
  waitMs: number;
  /** The longest time that a lock is held on purpose, in milliseconds. */
  holdMs: number;
}

const config = JSON.parse(process.argv[2] as string) as WorkerConfig;
const recorder = new Recorder(config.log);
let isEnding = false;
process.stdin.once("end", () => isEnding = true).resume();
await Promise.all(config.clients.map((name, index) => runClient(name, index)));
process.exit(0);

async function runClient(name: string, index: number): Promise<void> {
  const random = makeRandom(config.seed + index);
  // A third of the clients share an owner with others.
  const owner = index % 3 === 0 ? config.owners[index % config.owners.length]! : name;
  const client = new AgentClient({
    ...{ name, way: "local", owner, uid: process.getuid!(), recorder, random },
    // The kernel tells the agent when this process is gone, so its silence means nothing.
    hello: { session: "process", silenceMs: 0 },
    connect: () => connectLean(config.socket),
  });
  while (!isEnding) {
    const held = await client.claim(wishOf(random));
    if (held !== undefined) {
      await act(name, held, random);
      await client.release(held);
    }
    const us = random.below(config.pauseUs);
    if (us > 1000) await delay(us / 1000);
  }
  client.close();
}

/** Half of the claims go to a few locks, so that there is always somebody who waits. */
function wishOf(random: Random): Wish {
  const { locks, waiting } = config;
  const name =
    locks[random.below(random.below(2) === 0 ? Math.min(4, locks.length) : locks.length)]!;
  const longest = random.below(8) === 0 ? 3000 : config.waitMs;
  const waitMs = random.below(100) < waiting ? 5 + random.below(longest) : 0;
  return { name, shared: random.below(8) === 0, waitMs };
}

/** Most acts are over before anything else can run in this process; some last over many turns. */
async function act(c: string, held: Held, random: Random): Promise<void> {
  const { n } = held;
  const note = () => recorder.write({ e: "act", c, n, by: "self" });
  note();
  if (random.below(10) < 7) return;
  const endsAt = performance.now() + random.below(config.holdMs);
  while (performance.now() < endsAt) {
    await delay(1 + random.below(4));
    // What is lost must not be acted under; nothing can run between this look and the act.
    if (held.isLost) return;
    note();
  }
}
