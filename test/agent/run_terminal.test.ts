// Job control at a real terminal: a bash in a pty runs sshlock-agent run as a person would.
import assert from "node:assert/strict";
import { test } from "node:test";
import { commandLine } from "../support/agent_command.ts";
import { type AgentDirs, makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { descendants, readArgv, readStat } from "../support/processes.ts";
import { lockPath } from "../support/shell_lock.ts";
import { startShell } from "../support/terminal.ts";

/** A command line for the shell; no word of it has a quote. */
function line(dirs: AgentDirs, args: string[]): string {
  return commandLine(dirs, ["run", ...args]).map((word) => `'${word}'`).join(" ");
}

async function isLocked(dirs: AgentDirs): Promise<boolean> {
  const outcome = await flock(lockPath(dirs.lockDir, "x"));
  if (outcome.kind === "held") await outcome.holder.end();
  return outcome.kind !== "held";
}

/** The states of the processes below the shell whose command line has a word. */
function statesOf(shell: number, word: string): (string | undefined)[] {
  return descendants(shell).filter(({ pid }) => {
    const argv = readArgv(pid);
    return argv.includes(word) && argv[0] !== "/bin/sh"; // that one is the keeper
  }).map(({ pid }) => readStat(pid)?.state);
}

for (const withAgent of [true, false]) {
  test(`^C, ^Z, fg, background jobs and pipes (${withAgent ? "agent" : "no agent"})`, async () => {
    await using made = await makeAgentDirs();
    await using _agent = withAgent ? await startAgent({ dirs: made.dirs }) : undefined;
    const { dirs } = made;
    await using shell = await startShell();

    shell.type(`${line(dirs, ["x", "sh", "-c", "echo up; cat; echo over"])}\n`);
    await shell.shows(/\r\nup\r\n/);
    shell.type("typed\n");
    await shell.shows(/typed\r\ntyped\r\n/);

    shell.type("\x1a");
    await shell.shows(/Stopped[^]*ready> /);
    assert.deepEqual(statesOf(shell.pid, "cat"), ["T"], "the command is stopped");
    assert.deepEqual(statesOf(shell.pid, "run"), ["T"], "run is stopped");
    assert.equal(await isLocked(dirs), true, "a stopped command keeps its lock");

    shell.type("fg\n");
    // What is typed before the command has the terminal back is the shell's.
    await until(() => statesOf(shell.pid, "cat")[0] === "S", { what: "a resumed command" });
    assert.deepEqual(statesOf(shell.pid, "run").includes("T"), false, "run is resumed");
    shell.type("again\n");
    await shell.shows(/again\r\nagain\r\n/);
    shell.type("\x03");
    await shell.shows(/ready> /);
    shell.type("echo code=$?\n");
    await shell.shows(/\r\ncode=130\r\n/);
    assert.equal(await isLocked(dirs), false);

    const trap = "trap 'echo caught; exit 4' INT; echo up; while :; do sleep 0.1; done";
    shell.type(`${line(dirs, ["x", "sh", "-c"])} "${trap}"; echo code=$?\n`);
    await shell.shows(/\r\nup\r\n/);
    shell.type("\x03");
    await shell.shows(/caught\r\ncode=4\r\n/);

    shell.type(`${line(dirs, ["x", "sh", "-c", "echo up; exec sleep 1000"])} &\n`);
    await shell.shows(/(\r\n|> )up\r\n/);
    shell.type("jobs; kill %1; wait %1; echo code=$?\n");
    await shell.shows(/Running[^]*\r\ncode=143\r\n/);

    shell.type(`yes | ${line(dirs, ["x", "cat"])} | head -n 1; echo code=\${PIPESTATUS[*]}\n`);
    // Python has left SIGPIPE ignored for the shell, so yes says that it cannot write.
    await shell.shows(/y\r\n[^]*\r\ncode=\d+ 141 0\r\n/);
    assert.equal(await isLocked(dirs), false);
  });
}
