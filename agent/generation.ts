/**
 * Older generations: agents of the same runtime folder whose run file is no longer at its path. A
 * cleaner of /tmp or an administrator has removed it, or the folder was unmounted at a logout.
 *
 * Its flock(2) keeps nobody out any more, so a new agent starts beside the older one, which may be
 * stopped and go on at any time. It must not act then: not unlock what the new one has adopted, not
 * signal processes, not write records, not answer claims. No check before each act could promise
 * that, because it may be stopped between the check and the act. So the new agent, before it reads
 * anything that the older one has left, ends it and waits until it is dead.
 *
 * An agent is known by its own descriptor of the run file: it has the flock(2) on it, and the file
 * says its pid and the path that it was locked at. Neither goes away with the file's name, and only
 * our user can write them. It is older when another file is at that path by now, or none.
 *
 * @module
 */

import { readFileSync, statSync } from "node:fs";
import { basename } from "node:path";
import { setTimeout } from "node:timers/promises";
import process from "node:process";
import type { Log } from "./log.ts";
import { isAlive, listDescriptors, listPids, type ProcessId, readStat } from "./proc.ts";
import { AlreadyRunningError, runFileText } from "./run_file.ts";
import { sendSignals } from "./signals.ts";

/**
 * Time that an older generation has to end in order, in milliseconds: it leaves its records once
 * more, which may have been removed with its run file.
 */
const HANDOVER_MS = 2_000;

/** Time in which the kernel ends a killed process, in milliseconds; it can be long under load. */
const DEATH_MS = 30_000;

/** What a holder is called: a host may have thousands of them. */
const HOLDER_COMM = "session-lock-";

/** Parent of all threads of the kernel, which have no descriptors. */
const KTHREADD_PID = 2;

/** Pause between two looks whether it lives, in milliseconds. */
const LOOK_MS = 5;

/**
 * Ends all older generations. When it resolves they are dead: their descriptors are closed, and they
 * have done nothing since.
 *
 * The caller has the run file at this path locked, so nobody else does the same meanwhile.
 *
 * @param runFile The run file, as an absolute path without symlinks.
 * @param log Where it is told.
 * @throws {AlreadyRunningError} One lives and cannot be ended.
 */
export async function endOlderGenerations(runFile: string, log: Log): Promise<void> {
  for (const older of findOlderGenerations(runFile)) {
    const state = readStat(older.pid)?.state;
    const isInOrder = state !== undefined && !isStopped(state) && await handsOver(older);
    if (!isInOrder) await kill(older, runFile);
    log("generation-ended", { pid: older.pid, inOrder: isInOrder });
  }
}

/**
 * All processes are looked at, not only those that /proc/locks names. The kernel gives that table out
 * a page at a time, by the line's number: while other locks come and go, a line may be left out, and
 * with it the older generation. A list of /proc goes by pid, and leaves out nobody who lives all the time.
 */
function findOlderGenerations(runFile: string): ProcessId[] {
  const name = basename(runFile);
  return listPids().flatMap((pid) => {
    const stat = pid === process.pid ? undefined : readStat(pid);
    if (stat === undefined || stat.parentPid === KTHREADD_PID) return [];
    if (stat.comm.startsWith(HOLDER_COMM)) return [];
    const isAgent = listDescriptors(pid)?.some(([fd, target]) =>
      // The name in the link is what is left of the path after an unmount; proc(5).
      target.includes(`/${name}`) && isOlderRunFile(pid, fd, runFile)
    );
    return isAgent === true ? [{ pid, startTime: stat.startTime }] : [];
  });
}

function isOlderRunFile(pid: number, fd: number, runFile: string): boolean {
  try {
    const file = `/proc/${pid}/fd/${fd}`;
    const hasLock = /^lock:.*FLOCK/m.test(readFileSync(`/proc/${pid}/fdinfo/${fd}`, "latin1"));
    if (!hasLock || readFileSync(file, "utf8") !== runFileText(pid, runFile)) return false;
    // In this order: a file that has been at the path and is there no longer never comes back. So this
    // stays true however long we are stopped, and an older generation never takes a newer for older.
    return statSync(file).ino !== statSync(runFile, { throwIfNoEntry: false })?.ino;
  } catch {
    return false; // it has closed the file, or has ended
  }
}

/** Whether it has ended by itself when it was asked to; not while it is stopped. */
async function handsOver(older: ProcessId): Promise<boolean> {
  if (sendSignals(older, ["SIGTERM"]) === "denied") return false;
  for (let waitedMs = 0; waitedMs < HANDOVER_MS; waitedMs += LOOK_MS) {
    if (!isAlive(older)) return true;
    if (isStopped(readStat(older.pid)?.state ?? "")) return false;
    await setTimeout(LOOK_MS);
  }
  return false;
}

async function kill(older: ProcessId, runFile: string): Promise<void> {
  const isSent = sendSignals(older, ["SIGKILL"]) !== "denied";
  for (let waitedMs = 0; isSent && waitedMs < DEATH_MS; waitedMs += LOOK_MS) {
    if (!isAlive(older)) return;
    await setTimeout(LOOK_MS);
  }
  throw new AlreadyRunningError(runFile, `${older.pid}`);
}

/** By a signal or by a tracer. */
function isStopped(state: string): boolean {
  return state === "T" || state === "t";
}
