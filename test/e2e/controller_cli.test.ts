// Each file of test/transcripts/sshlock_*.txt is a row of commands with what they print and exit with.
// UPDATE_TRANSCRIPTS=1 writes them anew: read the difference before you keep it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join, resolve } from "node:path";
import test, { after, before } from "node:test";

import { whyNoAgent } from "../support/agent_process.ts";
import { childExit, eachLine } from "../support/child.ts";
import { EventLog, within } from "../support/events.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { signalPid } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { type Host, startHost } from "./controller_host.ts";

const FOLDER = "test/transcripts";
const CLI = "./dist/sshlock";
const SHELL_WAY = "--transport shell";
const skip = whyNoSshd() ?? whyNoAgent() ?? requires(CLI);
let host: Host;
let env: NodeJS.ProcessEnv;

before(async () => {
  if (skip !== undefined) return;
  host = await startHost();
  const { sshd, target } = host;
  env = {
    ...process.env,
    NO_COLOR: "1",
    PATH: `${resolve("dist")}:${process.env.PATH}`,
    HOST: `${sshd.username}@127.0.0.1:${sshd.port}`,
    KEY: sshd.privateKeyPath,
    SOCKET: target.agentSocket,
    ON: `-i ${sshd.privateKeyPath} --fingerprint ${sshd.hostFingerprint} ` +
      `--agent-socket ${target.agentSocket}`,
    SSH_AUTH_SOCK: "",
  };
});
after(() => host?.[Symbol.asyncDispose]());

interface Ran {
  stdout: string;
  stderr: string;
  exitCode: number | null;
}

async function runShell(command: string): Promise<Ran> {
  const child = spawn("sh", ["-c", command], { env, stdio: ["ignore", "pipe", "pipe"] });
  const exit = childExit(child);
  const ended = Promise.all(
    [child.stdout, child.stderr].map((stream) =>
      new Promise<void>((done) => stream.once("close", () => done()))
    ),
  );
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text) => stdout += text);
  child.stderr.setEncoding("utf8").on("data", (text) => stderr += text);
  const { code } = await within(exit, { what: command, deadlineMs: 30_000 });
  await ended;
  return { stdout, stderr, exitCode: code };
}

/** What differs from run to run, by name. */
function normalise(text: string): string {
  const { sshd, target } = host;
  return text
    // First: a short port, user or host name may stand anywhere in it.
    .replace(/SHA256:[A-Za-z0-9+/]{43}/g, "SHA256:FINGERPRINT")
    .replaceAll(target.agentSocket as string, "/run/agent.sock")
    .replaceAll(sshd.privateKeyPath, "KEY")
    .replace(new RegExp(`\\b${sshd.port}\\b`, "g"), "PORT")
    .replaceAll(`(${sshd.username}, uid`, "(USER, uid")
    .replaceAll(`${sshd.username}@127.0.0.1`, "USER@127.0.0.1")
    .replaceAll(`"user":"${sshd.username}"`, '"user":"USER"')
    .replaceAll(`for ${sshd.username}`, "for USER")
    .replace(new RegExp(`\\b${hostname()}\\b`, "g"), "MACHINE")
    .replace(/uid \d+/g, "uid UID")
    .replace(/\bfor \d+ (ms|s)\b/g, "for TIME")
    .replace(/\bafter \d+ (ms|s)\b/g, "after TIME")
    .replace(/\b1[0-9]{12}\b/g, "TOKEN")
    .replace(/holder \d+/g, "holder PID")
    .replace(/"(holderPid|peerPid|uid|since|heldMs|lastHeardMs|waitedMs)":\d+/g, '"$1":N')
    .replace(/^sshlock \S+ \(\S+\)$/m, "sshlock VERSION (COMMIT)")
    // A row of the table: its columns are as wide as what stands in them.
    .replace(/^(\S+ +\S+ +)\S+ +\d+ +\d+ m?s +TOKEN +/gm, "$1USER  PID  TIME  TOKEN  ")
    .replace(
      /^NAME +OWNER +USER +PID +FOR +TOKEN +MODE +WHY$/m,
      "NAME OWNER USER PID FOR TOKEN MODE WHY",
    );
}

function section(name: string, text: string): string {
  return text === ""
    ? ""
    : `--- ${name}\n${text.endsWith("\n") ? text : `${text}\n(no newline)\n`}`;
}

for (const file of readdirSync(FOLDER).filter((name) => /^sshlock_.*\.txt$/.test(name))) {
  test(`the transcript ${file} is what happens`, { skip }, async () => {
    // Somebody is at work on this host.
    await using session = await host.connect({ owner: "respirate/42" });
    await using _lock = await session.claim("busy", { purpose: "repair db1" });
    const path = join(FOLDER, file);
    const expected = readFileSync(path, "utf8");
    const [title, ...blocks] = expected.split(/^(?=\$ )/m);
    let actual = title ?? "";
    for (const block of blocks) {
      const command = (block.split("\n")[0] as string).slice(2);
      const { stdout, stderr, exitCode } = await runShell(command);
      const output = section("stdout", normalise(stdout)) + section("stderr", normalise(stderr));
      actual += `$ ${command}\n${output}--- exit ${exitCode}\n\n`;
    }
    actual = `${actual.trimEnd()}\n`;
    if (process.env.UPDATE_TRANSCRIPTS === "1") writeFileSync(path, actual);
    else assert.equal(actual, expected);
  });
}

test("sshlock run ends its command and exits 93 when the lock is lost", {
  skip: skip ?? requires("bash", "flock"),
}, async () => {
  const child = spawn("sh", [
    "-c",
    `exec sshlock run $ON --transport shell $HOST lost-one -- sh -c 'echo $$; exec sleep 60'`,
  ], { env: { ...env }, stdio: ["ignore", "pipe", "pipe"] });
  const exit = childExit(child);
  const [out, err] = [new EventLog<string>(), new EventLog<string>()];
  eachLine(child.stdout, (line) => out.push(line));
  eachLine(child.stderr, (line) => err.push(line));
  const pid = Number(await out.waitFor(() => true));
  for (const { pid } of host.sshd.sessions()) signalPid(pid, "SIGKILL");
  assert.equal((await within(exit)).code, 93);
  await err.waitFor((line) => line.includes("Lost"));
  // The shell way of the command line uses the usual folder.
  rmSync("/dev/shm/session-lock-lost-one", { force: true });
  signalPid(pid, "SIGKILL");
});

/** `sshlock run` with a shell script on the host, which says `up` once its traps are set. */
function startRun(name: string, script: string, options = "") {
  const command = `exec sshlock run $ON ${options} $HOST ${name} -- sh -c "$SCRIPT"`;
  const SCRIPT = `${script}; echo up; while :; do sleep 0.05; done`;
  const child = spawn("sh", ["-c", command], {
    env: { ...env, SCRIPT },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exit = childExit(child);
  const out = new EventLog<string>();
  eachLine(child.stdout, (line) => out.push(line));
  const send = (signal: NodeJS.Signals) => signalPid(child.pid as number, signal);
  const code = async () => (await within(exit, { deadlineMs: 30_000 })).code;
  return { out, send, code, isUp: out.waitFor((line) => line === "up") };
}

test("sshlock run passes a signal on, and exits with 128 + N where it ended the command", {
  skip,
}, async () => {
  const { send, code, isUp } = startRun("stopped", ":");
  await isUp;
  send("SIGINT");
  assert.equal(await code(), 130);
});

for (const signal of ["SIGTERM", "SIGHUP"] as const) {
  test(`sshlock run passes ${signal} on, and exits as the command does`, { skip }, async () => {
    const { out, send, code, isUp } = startRun(
      "stopped",
      `trap 'echo bye; exit 5' ${signal.slice(3)}`,
    );
    await isUp;
    send(signal);
    await out.waitFor((line) => line === "bye");
    assert.equal(await code(), 5);
  });
}

test("sshlock run presses harder each time, and holds the lock until the command is gone", {
  skip,
}, async () => {
  const script = `trap 'echo int' INT; trap 'echo term' TERM`;
  const { out, send, code, isUp } = startRun("stubborn", script);
  await isUp;
  send("SIGINT");
  await out.waitFor((line) => line === "int");
  await using session = await host.connect();
  await assert.rejects(session.claim("stubborn"), { name: "LockContendedError" });
  send("SIGINT");
  await out.waitFor((line) => line === "term");
  send("SIGINT");
  assert.equal(await code(), 137);
  await using lock = await session.claim("stubborn");
  assert.ok(lock.held);
});

test("sshlock run sends KILL by itself after a TERM that the command ignores", {
  skip,
}, async () => {
  const { send, code, isUp } = startRun("deaf", `trap '' TERM`);
  await isUp;
  send("SIGTERM");
  assert.equal(await code(), 137);
});

test("sshlock run passes signals on by the shell way too", {
  skip: skip ?? requires("bash", "flock"),
}, async () => {
  const { out, send, code, isUp } = startRun("by-shell", `trap 'echo int; exit 6' INT`, SHELL_WAY);
  await isUp;
  send("SIGINT");
  await out.waitFor((line) => line === "int");
  assert.equal(await code(), 6);
  rmSync("/dev/shm/session-lock-by-shell", { force: true });
});

test("sshlock watch --json prints the state and each change, one object a line", {
  skip,
}, async () => {
  await using session = await host.connect({ owner: "respirate/42" });
  const child = spawn("sh", ["-c", "exec sshlock watch $ON --json $HOST seen"], {
    env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exit = childExit(child);
  const out = new EventLog<string>();
  eachLine(child.stdout, (line) => out.push(line));
  const first = JSON.parse(await out.waitFor(() => true));
  assert.deepEqual([first.event, first.lock.name, first.lock.holders], ["state", "seen", []]);
  await using _lock = await session.claim("seen");
  const change = JSON.parse(await out.waitFor(() => true, { from: 1 }));
  assert.deepEqual([change.event, change.owner], ["granted", "respirate/42"]);
  signalPid(child.pid as number, "SIGINT");
  assert.equal((await within(exit)).code, 130);
});

test("sshlock hold says what it has and lets go at an interrupt", { skip }, async () => {
  const child = spawn("sh", ["-c", "exec sshlock hold $ON --json $HOST held"], {
    env,
    stdio: ["ignore", "pipe", "ignore"],
  });
  const exit = childExit(child);
  const out = new EventLog<string>();
  eachLine(child.stdout, (line) => out.push(line));
  const held = JSON.parse(await out.waitFor(() => true));
  assert.deepEqual([held.name, held.way, typeof held.token], ["held", "streamlocal", "number"]);
  await using session = await host.connect();
  await assert.rejects(session.claim("held"), { name: "LockContendedError" });
  signalPid(child.pid as number, "SIGINT");
  assert.equal((await within(exit)).code, 0);
  await using lock = await session.claim("held");
  assert.ok(lock.held);
});

test(
  "standard input passes through, and a reader that goes away ends the command",
  { skip },
  async () => {
    const copied = await runShell("seq 50000 | sshlock run $ON $HOST piped cat | tail -n 1");
    assert.equal(copied.stdout, "50000\n");
    const cut = await runShell("{ sshlock run $ON $HOST piped yes; echo $? >&2; } | head -n 1");
    assert.deepEqual([cut.stdout, cut.stderr], ["y\n", "141\n"]);
  },
);
