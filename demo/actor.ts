import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { childExit, eachLine } from "../test/support/child.ts";
import { EventLog } from "../test/support/events.ts";
import type { Order, Report, Settings } from "./claimant.ts";

/** The longest that anything here takes, in milliseconds; a waiting claim is told in between. */
const DEADLINE_MS = 20_000;

/** A controller in a process of its own, as the demo sees it. */
export interface Actor {
  readonly pid: number;
  /** Gives it an order. */
  send(order: Order): void;
  /**
   * Waits for what it tells next of this kind.
   *
   * @throws {Error} It told of a failure, has ended, or did not tell in time.
   */
  hear<Kind extends Report["kind"]>(kind: Kind): Promise<Report & { kind: Kind }>;
  /** Kills it (-9) and waits for its end. */
  kill(): Promise<void>;
}

/**
 * Starts a claimant and waits until it is connected.
 *
 * @param program The bundled `claimant.ts`.
 * @param dir Where its settings go.
 * @param settings Its settings.
 * @param cleanUp Takes how to end it.
 */
export async function startActor(
  program: string,
  dir: string,
  settings: Settings,
  cleanUp: (() => Promise<unknown>)[],
): Promise<Actor> {
  const path = join(dir, `${settings.owner}.json`);
  writeFileSync(path, JSON.stringify(settings), { mode: 0o600 });
  const child = spawn(process.execPath, [program, path], { stdio: ["pipe", "pipe", "pipe"] });
  const exit = childExit(child);
  const kill = async () => {
    child.kill("SIGKILL");
    await exit;
  };
  cleanUp.push(kill);
  child.stdin.on("error", () => {}); // EPIPE once it has ended
  const reports = new EventLog<Report>();
  let stderr = "";
  eachLine(child.stderr, (line) => stderr += `${line}\n`);
  eachLine(child.stdout, (line) => reports.push(JSON.parse(line) as Report));
  child.on("close", () => reports.end(`${settings.owner} has ended\n${stderr}`));

  let heard = 0;
  const hear = async (kind: Report["kind"]) => {
    const report = await reports.waitFor(
      (report) => report.kind === kind || report.kind === "failed",
      { from: heard, what: `${settings.owner}: ${kind}`, deadlineMs: DEADLINE_MS },
    );
    heard = reports.all.indexOf(report) + 1;
    if (report.kind === "failed") throw new Error(`${settings.owner}: ${report.message}`);
    return report;
  };
  await hear("connected");
  return {
    pid: child.pid as number,
    send: (order) => child.stdin.write(`${JSON.stringify(order)}\n`),
    hear: hear as Actor["hear"],
    kill,
  };
}
