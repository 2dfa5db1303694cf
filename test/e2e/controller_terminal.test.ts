// Job control of sshlock at a real terminal: a bash in a pty runs it as a person would.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import test from "node:test";

import { whyNoAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { descendants, readStat } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import { startShell } from "../support/terminal.ts";
import { startHost } from "./controller_host.ts";

const skip = whyNoSshd() ?? whyNoAgent() ?? requires("./dist/sshlock", "python3", "bash");

// Long enough that a busy machine loses nothing by it, short enough to be waited for.
const TIMES = { heartbeatMs: 1_000, giveUpMs: 4_000, silenceMs: 5_000 };

test("^Z of sshlock run stops the command too, and says when the lock is lost; fg goes on", {
  skip,
}, async () => {
  await using folder = await makeTempDir();
  const config = join(folder.path, "agent.json");
  writeFileSync(config, JSON.stringify(TIMES), { mode: 0o600 });
  await using host = await startHost({ agentArgs: ["--config", config] });
  const { sshd, target } = host;
  await using shell = await startShell({
    PATH: `${resolve("dist")}:${process.env.PATH}`,
    ON: `-i ${sshd.privateKeyPath} --fingerprint ${sshd.hostFingerprint} --agent-socket ` +
      `${target.agentSocket} ${sshd.username}@127.0.0.1:${sshd.port}`,
  });
  const states = (name: string) =>
    sshd.sessions().flatMap(({ pid }) => descendants(pid)).filter(({ comm }) => comm === name)
      .map(({ pid }) => readStat(pid)?.state);
  const stopped = /stopped, and the command with it; "x" is lost unless it goes on within \d+ m?s/;

  shell.type("sshlock run $ON x -- sh -c 'echo up; sleep 1000; echo over'\n");
  await shell.shows(/\r\nup\r\n/);
  shell.type("\x1a");
  await shell.shows(stopped);
  await shell.shows(/Stopped[^]*ready> /);
  assert.deepEqual(states("sleep"), ["T"], "the command is stopped on the host");
  shell.type("fg\n");
  await until(() => states("sleep")[0] === "S", { what: "a command that goes on" });

  // A second time, and for too long.
  shell.type("\x1a");
  await shell.shows(stopped);
  await shell.shows(/Stopped[^]*ready> /);
  await host.agent!.events.waitFor(({ event }) => event === "session-ended", {
    deadlineMs: 60_000,
  });
  assert.deepEqual(states("sleep"), [], "the agent has ended it");
  shell.type("fg; echo code=$?\n");
  await shell.shows(/Lost "x" on 127\.0\.0\.1: [^]*\r\ncode=93\r\n/);

  shell.type("sshlock hold $ON x\n");
  await shell.shows(/held until \^C\r\n/);
  shell.type("\x1a");
  await shell.shows(/sshlock: stopped; "x" is lost unless it goes on within \d+ m?s\r\n/);
  await shell.shows(/Stopped[^]*ready> /);
});
