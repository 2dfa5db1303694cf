/**
 * Foreign holders that come and go, for those who watch.
 *
 * The kernel tells nobody when a file is locked or freed, so it is asked each second, and only while
 * somebody watches: an agent that is not watched sleeps.
 *
 * @module
 */

import { statSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { lockFileName, lockNameOfFile } from "../protocol/lock_name.ts";
import type { ChangeParams, LockFacts } from "../protocol/messages.ts";
import { askKernelLocks, kernelFileKey } from "./kernel_locks.ts";

/** Pause between two looks, in milliseconds: a foreign holder is told of that much later at most. */
const LOOK_MS = 1_000;

/** What is needed to look. */
export interface ForeignWatchParts {
  /** The folder of the lock files. */
  lockDir: string;
  /** The holders of this agent. */
  holderPids(): ReadonlySet<number>;
  /**
   * Some locks as `status` tells of them, free ones included, from one look.
   *
   * @param names The locks.
   */
  statusOf(names: readonly string[]): Promise<LockFacts[]>;
}

/** Somebody who watches. */
export type ForeignListener = (change: ChangeParams) => void;

/** Watches foreign holders while anybody listens. */
export class ForeignWatch {
  readonly #parts: ForeignWatchParts;
  readonly #listeners = new Set<ForeignListener>();
  #round: Round | undefined;

  /**
   * @param parts What is needed to look.
   */
  constructor(parts: ForeignWatchParts) {
    this.#parts = parts;
  }

  /**
   * Calls back after each change.
   *
   * @param listener Called with what happened and the lock as it is now.
   * @returns `ready` resolves once no change after it is missed, but for what comes and goes between
   * two looks; `stop` ends it.
   */
  watch(listener: ForeignListener): { ready: Promise<void>; stop(): void } {
    this.#listeners.add(listener);
    const round = this.#round ??= new Round(this.#parts, (change) => {
      for (const listener of [...this.#listeners]) listener(change);
    });
    const stop = () => {
      if (!this.#listeners.delete(listener) || this.#listeners.size > 0) return;
      round.end();
      this.#round = undefined;
    };
    return { ready: round.ready, stop };
  }
}

/** From the first who listens until the last one has gone. */
class Round {
  /** Resolves once the first look is done, whatever came of it. */
  readonly ready: Promise<void>;
  readonly #parts: ForeignWatchParts;
  readonly #tell: ForeignListener;
  /** What the kernel had that was not ours, by the key of the file. */
  #seen = new Map<string, string>();
  /**
   * Files that had changed at the last look. They are looked at once more: the shell protocol locks in
   * one process, and another one that inherits the lock gets its name a moment later.
   */
  #fresh = new Set<string>();
  /** Locks that foreign holders had. */
  readonly #told = new Map<string, { file: string | undefined; holders: string }>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isOver = false;

  constructor(parts: ForeignWatchParts, tell: ForeignListener) {
    this.#parts = parts;
    this.#tell = tell;
    this.ready = this.#look(() => {}).catch(() => {}).then(() => this.#lookAgainLater());
  }

  end(): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
  }

  #lookAgainLater(): void {
    if (this.#isOver) return;
    // What cannot be read now may be readable the next time; `status` says why it is not.
    this.#timer = setTimeout(
      () => void this.#look(this.#tell).catch(() => {}).then(() => this.#lookAgainLater()),
      LOOK_MS,
    );
  }

  async #look(tell: ForeignListener): Promise<void> {
    const seen = await this.#askKernel();
    const changed = changedKeys(this.#seen, seen);
    const due = new Set([...changed, ...this.#fresh]);
    if (due.size === 0 || this.#isOver) return;
    const files = await this.#namesOf(due);
    const locks = await this.#parts.statusOf([...files.keys()]);
    if (this.#isOver) return;
    this.#seen = seen;
    this.#fresh = changed;
    for (const lock of locks) this.#compare(lock, files.get(lock.name), tell);
  }

  /** Ours are left out by their pids; one that has just ended is looked at for nothing. */
  async #askKernel(): Promise<Map<string, string>> {
    const locks = await askKernelLocks(this.#parts.lockDir);
    const ours = this.#parts.holderPids();
    const seen = new Map<string, string>();
    for (const [file, list] of locks) {
      const held = list.filter(({ state, pid }) => state === "held" && !ours.has(pid));
      const who = held.map(({ pid, shared }) => `${pid}${shared ? "s" : ""}`).sort().join();
      if (who !== "") seen.set(file, who);
    }
    return seen;
  }

  /** The locks whose files these are, and those that were told of by these files. */
  async #namesOf(changed: ReadonlySet<string>): Promise<Map<string, string | undefined>> {
    const { lockDir } = this.#parts;
    const files = new Map<string, string | undefined>();
    for (const [name, { file }] of this.#told) {
      if (file === undefined || changed.has(file)) files.set(name, file);
    }
    for (const fileName of await readdir(lockDir)) {
      const name = lockNameOfFile(fileName);
      const key = name === undefined ? undefined : keyOf(join(lockDir, lockFileName(name)));
      if (name !== undefined && key !== undefined && changed.has(key)) files.set(name, key);
    }
    return files;
  }

  #compare(lock: LockFacts, file: string | undefined, tell: ForeignListener): void {
    const { name } = lock;
    const foreign = lock.holders.filter(({ kind }) => kind === "foreign");
    const holders = JSON.stringify(foreign);
    const before = this.#told.get(name)?.holders ?? "[]";
    if (foreign.length === 0) this.#told.delete(name);
    else this.#told.set(name, { file, holders });
    if (holders === before) return;
    tell({ event: foreign.length === 0 ? "foreign-gone" : "foreign-held", lock });
  }
}

function changedKeys(
  before: ReadonlyMap<string, string>,
  now: ReadonlyMap<string, string>,
): Set<string> {
  const keys = [...before.keys(), ...now.keys()];
  return new Set(keys.filter((key) => before.get(key) !== now.get(key)));
}

function keyOf(path: string): string | undefined {
  try {
    const { dev, ino } = statSync(path);
    return kernelFileKey(dev, ino);
  } catch {
    return undefined;
  }
}
