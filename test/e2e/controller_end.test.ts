// A command that is ended from here is gone on the host, with all that it has started, when its promise
// settles; and nothing else of the session is.

import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import test, { after, before } from "node:test";

import type {
  CommandNotEndedError,
  CommandTimeoutError,
  ExecOptions,
  RunningCommand,
  Session,
} from "../../controller/mod.ts";
import { whyNoAgent } from "../support/agent_process.ts";
import { eachLine } from "../support/child.ts";
import { EventLog, until, within } from "../support/events.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { freeze, isAlive, killAndConfirm, readStat, signalPid } from "../support/processes.ts";
import { type Host, startHost } from "./controller_host.ts";

const skip = whyNoSshd() ?? whyNoAgent();
let host: Host;

before(async () => {
  if (skip === undefined) host = await startHost();
});
after(() => host?.[Symbol.asyncDispose]());

/** What daemons are started by: each leaves its command in another way. */
const DAEMONS = [
  "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!",
  "(nohup sleep 1000 </dev/null >/dev/null 2>&1 & echo $!)",
  `setsid sh -c 'sleep 1000 & echo $!' </dev/null 2>/dev/null`,
  `setsid sh -c 'trap "" TERM; echo $$; while :; do sleep 0.1; done' </dev/null 2>/dev/null &`,
  "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; kill -STOP $!",
];

/** A command that runs and has told the pids of what it has started. */
interface Started {
  pids: number[];
  command: RunningCommand;
  controller: AbortController;
  outcome: Promise<unknown>;
}

/** @param count How many pids it tells; some come from the background, so in any order. */
async function start(
  session: Session,
  text: string,
  options: ExecOptions & { count?: number } = {},
): Promise<Started> {
  const { count = 1, ...execOptions } = options;
  const output = new PassThrough();
  const pids: number[] = [];
  const told = new EventLog<number>();
  eachLine(output, (line) => told.push(pids.push(Number(line))));
  const controller = new AbortController();
  let command!: RunningCommand;
  const outcome = session.exec(`${text}\nwhile :; do sleep 0.1; done`, {
    killAfterMs: 200,
    signal: controller.signal,
    onStart: (running) => command = running,
    onStdout: (chunk) => void output.write(chunk),
    ...execOptions,
  }).then(() => "went well", (error: unknown) => error);
  await told.waitFor((length) => length === count, { what: `${count} pids` });
  return { pids, command, controller, outcome };
}

test("an abort ends a command with all that it has started, and nothing else", {
  skip,
}, async () => {
  await using session = await host.connect();
  const other = await start(session, DAEMONS.slice(0, 2).join("\n"), { count: 2 });
  const ours = await start(session, DAEMONS.join("\n"), { count: DAEMONS.length });
  const listed = (await ours.command.processes() ?? []).map(({ pid }) => pid);
  assert.deepEqual(ours.pids.filter((pid) => !listed.includes(pid)), [], "all are listed");
  assert.deepEqual(other.pids.filter((pid) => listed.includes(pid)), [], "no other is");
  const reason = new Error("enough");
  ours.controller.abort(reason);
  assert.equal(await within(ours.outcome, { deadlineMs: 30_000 }), reason);
  assert.deepEqual(ours.pids.filter(isAlive), [], "none lives when the promise settles");
  assert.deepEqual(other.pids.filter((pid) => !isAlive(pid)), [], "the other command's do");
  other.controller.abort();
  await within(other.outcome, { deadlineMs: 30_000 });
  assert.deepEqual(other.pids.filter(isAlive), []);
});

test("a timeout does so too, over the bridge", { skip }, async () => {
  await using session = await host.connect({ transport: "bridge" });
  const { pids, outcome } = await start(session, DAEMONS.join("\n"), {
    count: DAEMONS.length,
    timeoutMs: 1_500,
  });
  const error = await within(outcome, { deadlineMs: 30_000 }) as CommandTimeoutError;
  assert.equal(error.name, "CommandTimeoutError");
  assert.deepEqual(pids.filter(isAlive), []);
  assert.equal((await session.exec("echo still here")).stdout, "still here\n");
});

test("more commands are aborted at a time than the agent answers questions", {
  skip,
}, async () => {
  await using session = await host.connect();
  const controller = new AbortController();
  const all = await Promise.all(
    Array.from(
      { length: 9 },
      () => start(session, DAEMONS[0] as string, { signal: controller.signal }),
    ),
  );
  controller.abort(new Error("all"));
  const ended = await within(Promise.all(all.map(({ outcome }) => outcome)), {
    deadlineMs: 30_000,
  });
  assert.deepEqual(ended.map((error) => (error as Error).message), all.map(() => "all"));
  assert.deepEqual(all.flatMap(({ pids }) => pids).filter(isAlive), []);
});

test("a signal reaches a running command and what runs below it", { skip }, async () => {
  await using session = await host.connect();
  const caught = `sh -c 'trap "echo inner; exit 0" INT; echo up; while :; do sleep 0.1; done'`;
  const lines = new EventLog<string>();
  let command!: RunningCommand;
  const running = session.exec(`trap 'echo outer' INT; ${caught}; exit 7`, {
    check: false,
    onStart: (started) => command = started,
    onStdout: (chunk) => String(chunk).split("\n").forEach((line) => lines.push(line)),
  });
  await lines.waitFor((line) => line === "up");
  await command.signal("INT");
  assert.equal((await within(running)).exitCode, 7);
  assert.deepEqual(lines.all.filter((line) => /er$/.test(line)).sort(), ["inner", "outer"]);
});

test("session.signal() takes a process with what runs below it", { skip }, async () => {
  await using session = await host.connect();
  const one = await start(session, "sleep 1000 & echo $!", {});
  const [first] = await one.command.processes() ?? [];
  const leader = readStat(one.pids[0] as number)?.ppid as number;
  assert.equal(first?.pid, leader);
  const listed = (await session.processes({ pid: leader, tree: true })).map(({ pid }) => pid);
  assert.ok(listed.includes(one.pids[0] as number));
  const signalled = await session.signal("KILL", { pid: leader, tree: true });
  assert.ok(signalled.includes(leader) && signalled.includes(one.pids[0] as number));
  await within(one.outcome);
});

test("an agent that does not answer is not waited for: the process group is signalled", {
  skip,
}, async () => {
  await using alone = await startHost();
  await using session = await alone.connect();
  const { pids, controller, outcome } = await start(session, "sleep 1000 & echo $!");
  await session.status();
  await freeze(alone.agent?.pid as number);
  const reason = new Error("enough");
  controller.abort(reason);
  assert.equal(await within(outcome, { deadlineMs: 30_000 }), reason);
  await until(() => !pids.some(isAlive), { what: "their end" });
  signalPid(alone.agent?.pid as number, "SIGCONT");
});

test("without an agent an end that cannot be confirmed is told as such", { skip }, async () => {
  await using alone = await startHost({ agent: false });
  await using session = await alone.connect();
  // It leaves the process group and keeps the channel open.
  const text = `setsid sh -c 'trap "" TERM; echo $$; sleep 1000'&`;
  const { pids, controller, outcome } = await start(session, text, { killAfterMs: 100 });
  const reason = new Error("enough");
  controller.abort(reason);
  const error = await within(outcome, { deadlineMs: 30_000 }) as CommandNotEndedError;
  assert.deepEqual([error.name, error.cause, error.processes], [
    "CommandNotEndedError",
    reason,
    undefined,
  ]);
  assert.match(error.message, /its end could not be confirmed without an agent$/);
  for (const pid of pids) await killAndConfirm(pid);
});
