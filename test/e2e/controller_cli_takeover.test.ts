// What sshlock prints on both sides of a takeover, and of a lock that stays reserved.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import test, { after, before } from "node:test";
import { resolve } from "node:path";

import { whyNoAgent } from "../support/agent_process.ts";
import { childExit, eachLine } from "../support/child.ts";
import { EventLog, within } from "../support/events.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { signalPid } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { type Host, startHost } from "./controller_host.ts";

const CLI = "./dist/sshlock";
const skip = whyNoSshd() ?? whyNoAgent() ?? requires(CLI);
// A command line takes seconds to connect on a busy machine.
const LOADED = { deadlineMs: 60_000 };
let host: Host;

before(async () => {
  if (skip === undefined) host = await startHost();
});
after(() => host?.[Symbol.asyncDispose]());

/** `sshlock SUBCOMMAND` on the test's host; disposing of it kills it. */
function start(subcommand: string, options: string[], words: string[]) {
  const { sshd, target } = host;
  const on = ["-i", sshd.privateKeyPath, "--fingerprint", sshd.hostFingerprint];
  const at = ["--agent-socket", `${target.agentSocket}`];
  const where = `${sshd.username}@127.0.0.1:${sshd.port}`;
  const child: ChildProcess = spawn(resolve(CLI), [
    ...[subcommand, ...options, ...on, ...at, where, ...words],
  ], { env: { ...process.env, NO_COLOR: "1" }, stdio: ["ignore", "pipe", "pipe"] });
  const exit = childExit(child);
  const closed = new Promise((resolve) => child.once("close", resolve));
  const [out, err] = [new EventLog<string>(), new EventLog<string>()];
  eachLine(child.stdout!, (line) => out.push(line));
  eachLine(child.stderr!, (line) => err.push(line));
  const end = async () => {
    const { code } = await within(exit, { deadlineMs: 60_000 });
    await closed;
    return { code, out: out.all, err: err.all };
  };
  const dispose = async () => {
    signalPid(child.pid as number, "SIGKILL");
    await exit;
  };
  return { pid: child.pid as number, out, err, end, exit, [Symbol.asyncDispose]: dispose };
}

const STAY = ["sh", "-c", "echo up; exec sleep 1000"];
const TAKE = ["--owner", "you/2", "--takeover", "the disk is full", "--takeover-deadline", "1s"];
const LOST = "hint: the command was ended; what it did last was not protected by the lock";

/** What differs from run to run. */
function normalise(lines: string[]): string[] {
  const { username } = host.sshd;
  return lines.map((line) =>
    line.replaceAll(`(${username}, uid`, "(USER, uid").replaceAll(`(${username})`, "(USER)")
      .replace(/uid \d+/g, "uid UID").replace(/for \d+ m?s/g, "for TIME")
      .replace(/after \d+ m?s/g, "after TIME")
  );
}

test("sshlock run --takeover: both sides say who, why and until when", { skip }, async () => {
  await using mine = start("run", ["--owner", "me/1"], ["x", "--", ...STAY]);
  await mine.out.waitFor((line) => line === "up", LOADED);
  await using taker = start("run", TAKE, ["x", "--", "echo", "mine"]);
  const [taken, lost] = [await taker.end(), await mine.end()];
  assert.deepEqual([taken.code, taken.out, normalise(taken.err)], [0, ["mine"], [
    'sshlock: asking for "x" on 127.0.0.1: held by me/1 (USER, uid UID, 127.0.0.1) for TIME',
    "sshlock: taken over from me/1",
  ]]);
  assert.deepEqual([lost.code, normalise(lost.err)], [93, [
    'sshlock: you/2 asks for "x" on 127.0.0.1: the disk is full; this session is ended in 1 s',
    'sshlock: Lost "x" on 127.0.0.1: taken over by you/2 (USER): the disk is full',
    LOST,
  ]]);
});

test("sshlock hold that is taken over loses no command, and says so", { skip }, async () => {
  await using mine = start("hold", ["--owner", "me/1"], ["y"]);
  await mine.err.waitFor((line) => line.includes("until ^C"), LOADED);
  await using taker = start("hold", TAKE, ["y"]);
  await taker.err.waitFor((line) => line === "sshlock: taken over from me/1", LOADED);
  const { code, err } = await mine.end();
  assert.equal(code, 93);
  assert.equal(err.at(-1), "hint: what you did last on the host was not protected by the lock");
});

test("a takeover with a wait of its own ends with that", { skip }, async () => {
  await using mine = start("hold", ["--owner", "me/1"], ["z"]);
  await mine.err.waitFor((line) => line.includes("until ^C"), LOADED);
  const asking = ["--owner", "you/2", "-w", "1s", "--takeover", "hurry"];
  await using taker = start("run", asking, ["z", "--", "true"]);
  const { code, err } = await taker.end();
  const held = "held by me/1 (USER, uid UID, 127.0.0.1) for TIME";
  assert.deepEqual([code, normalise(err)], [124, [
    `sshlock: asking for "z" on 127.0.0.1: ${held}`,
    `sshlock: Cannot claim "z" on 127.0.0.1 after TIME: ${held}`,
    "hint: asked, not released: -w must outlast --takeover-deadline",
  ]]);
  // Nobody is ended 9 s after the claim has been refused, so nobody is told so.
  assert.equal(mine.err.all.at(-1), 'sshlock: you/2 asks for "z" on 127.0.0.1: hurry');
});

test("sshlock run --park: others are told for how long, and its owner has it back", {
  skip,
}, async () => {
  await using mine = start("run", ["--owner", "me/1", "--park", "9m"], ["p", "--", ...STAY]);
  await mine.out.waitFor((line) => line === "up", LOADED);
  signalPid(mine.pid, "SIGKILL");
  await mine.exit;
  await host.agent!.events.waitFor(({ event, name }) => event === "lock-parked" && name === "p", {
    deadlineMs: 60_000,
  });
  await using rival = start("run", ["--owner", "you/2"], ["p", "--", "true"]);
  const refused = await rival.end();
  assert.equal(refused.code, 124);
  assert.match(refused.err[0]!, /held by me\/1 .+; it stays reserved for 9 min$/);
  await using again = start("run", ["--owner", "me/1"], ["p", "--", "echo", "back"]);
  const back = await again.end();
  assert.deepEqual([back.code, back.out, back.err], [0, ["back"], [
    'sshlock: "p" had stayed reserved for you',
  ]]);
});

test("what cannot be taken over or kept reserved is refused with the reason", {
  skip: skip ?? requires("bash", "flock"),
}, async () => {
  const refusals: [string[], string][] = [
    [["--takeover-deadline", "1s"], "Cannot use --takeover-deadline without --takeover"],
    [["-n", "--takeover", "hurry"], "Cannot use -n with --takeover"],
    [["--park", "soon"], 'Cannot read --park "soon": it is no duration'],
    [
      ["--park", "1d"],
      'Cannot claim "q": on this host it cannot be reserved for longer than 10 min (on 127.0.0.1)',
    ],
    [
      ["--transport", "shell", "--park", "1s"],
      'Cannot park "q": no agent runs on the host (on 127.0.0.1)',
    ],
  ];
  for (const [options, message] of refusals) {
    await using refused = start("run", options, ["q", "--", "true"]);
    const { code, err } = await refused.end();
    assert.deepEqual([code, err[0]], [125, `sshlock: ${message}`]);
  }
});
