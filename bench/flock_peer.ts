// One of two processes that hand a flock(2) to each other, with nothing else in between.
//
//     bun flock_peer.mjs FILE
//
// Reads lines: `lock` waits for the lock, `unlock` lets it go. Each is answered by the time in
// nanoseconds (CLOCK_MONOTONIC, the same for all processes) just after the one, just before the other.

import { openSync } from "node:fs";
import process from "node:process";
import { createInterface } from "node:readline";

interface Libc {
  flock(fd: number, operation: number): number;
  clock_gettime(clock: number, time: BigInt64Array): number;
}

interface BunFfi {
  dlopen(name: string, symbols: unknown): { symbols: Libc };
}

const LOCK_EX = 2;
const LOCK_UN = 8;
const CLOCK_MONOTONIC = 1;

// Not a literal, so that no bundler looks for it.
const { dlopen } = await import(["bun", "ffi"].join(":")) as BunFfi;
const { symbols: libc } = dlopen("libc.so.6", {
  flock: { args: ["i32", "i32"], returns: "i32" },
  clock_gettime: { args: ["i32", "ptr"], returns: "i32" },
});
const fd = openSync(process.argv[2] as string, "a");
const time = new BigInt64Array(2);

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${line === "lock" ? lock() : unlock()}\n`);
}

function lock(): bigint {
  if (libc.flock(fd, LOCK_EX) !== 0) throw new Error("flock failed");
  return now();
}

function unlock(): bigint {
  const at = now();
  if (libc.flock(fd, LOCK_UN) !== 0) throw new Error("flock failed");
  return at;
}

function now(): bigint {
  libc.clock_gettime(CLOCK_MONOTONIC, time);
  return (time[0] as bigint) * 1_000_000_000n + (time[1] as bigint);
}
