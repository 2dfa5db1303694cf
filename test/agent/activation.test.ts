import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { commandLine } from "../support/agent_command.ts";
import { makeAgentDirs } from "../support/agent_process.ts";
import { childExit, eachLine } from "../support/child.ts";
import { EventLog, until } from "../support/events.ts";
import { signalPid } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { connectRpc } from "../support/rpc_client.ts";

const STARTERS: [tool: string, start: (socket: string) => string[]][] = [
  ["python3", (socket) => ["python3", "test/fixtures/activate.py", socket]],
  ["systemd-socket-activate", (socket) => ["systemd-socket-activate", "--listen", socket]],
];

for (const [tool, start] of STARTERS) {
  test(`an agent takes a listening socket over (from ${tool}) and leaves it in place`, {
    skip: requires(tool),
  }, async () => {
    await using made = await makeAgentDirs();
    const { dirs } = made;
    const command = [...start(dirs.socket), ...commandLine(dirs, ["serve"])];
    const child = spawn(command[0]!, command.slice(1), { stdio: ["ignore", "ignore", "pipe"] });
    const exit = childExit(child);
    const events = new EventLog<string>();
    eachLine(child.stderr, (line) => events.push(line));
    try {
      await until(() => existsSync(dirs.socket), { what: "the socket" });
      const client = await until(() => connectRpc(dirs.socket).catch(() => undefined));
      await client.request("hello", { protocol: 1, owner: "a" });
      assert.ok((await client.request("claim", { name: "deploy" })).token);
      const started = await events.waitFor((line) => line.includes('"agent-started"'));
      assert.match(started, /"activated":true/);
      signalPid(child.pid!, "SIGTERM");
      assert.equal((await exit).code, 0);
      assert.ok(existsSync(dirs.socket));
    } finally {
      child.kill("SIGKILL");
      await exit;
    }
  });
}
