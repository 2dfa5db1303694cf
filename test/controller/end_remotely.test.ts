import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import test from "node:test";

import { endRemotely } from "../../controller/end_remotely.ts";
import type { EndableProcess } from "../../controller/endable_process.ts";
import type { RemoteExit } from "../../controller/ssh_transport.ts";
import type { ProcessFacts } from "../../protocol/messages.ts";
import { within } from "../support/events.ts";

/** A command whose processes are as told: what no signal ends cannot be had on demand. */
function command(looks: (signals: string[]) => ProcessFacts[]) {
  const signals: string[] = [];
  let tellClosed!: (exit: RemoteExit) => void;
  const closed = new Promise<RemoteExit>((resolve) => tellClosed = resolve);
  const process: EndableProcess = {
    stdin: new PassThrough(),
    stdout: new PassThrough(),
    stderr: new PassThrough(),
    closed,
    signal: () => assert.fail("there is an agent"),
    close: () => tellClosed({ exitCode: null, signal: null }),
    processes: {
      signal: (name) => {
        signals.push(name);
        return Promise.resolve(looks(signals).map(({ pid }) => pid));
      },
      signalOne: (name, pid) => Promise.resolve(void signals.push(`${name} ${pid}`)),
      list: () => Promise.resolve(looks(signals)),
    },
  };
  return { process, signals };
}

const STUCK = { pid: 7, comm: "dd", state: "D" };

test("what KILL does not end is named, after a time", async () => {
  const { process } = command(() => [STUCK]);
  const report = await within(endRemotely(process, 20), { deadlineMs: 30_000 });
  assert.deepEqual(report, { isConfirmed: false, processes: [STUCK] });
});

test("what is forked after TERM gets TERM too, and a look that finds nothing is repeated", async () => {
  const late = { pid: 8, comm: "sh", state: "S" };
  let looks = 0;
  const { process, signals } = command((signals) => {
    if (signals.includes("TERM 8")) return [];
    looks++;
    // TERM and CONT go to the first; then one look finds nothing, and the next the late one.
    return looks <= 2 ? [STUCK] : looks === 3 ? [] : [late];
  });
  const report = await within(endRemotely(process, 10_000));
  assert.deepEqual(report, { isConfirmed: true, processes: [] });
  assert.deepEqual(signals, ["TERM", "CONT", "TERM 8"]);
});
