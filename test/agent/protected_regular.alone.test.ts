import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmodSync, chownSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { Duplex } from "node:stream";
import { test } from "node:test";
import { type AgentProcess, startAgent } from "../support/agent_process.ts";
import { childExit } from "../support/child.ts";
import { requires } from "../support/requires.ts";
import { RpcClient, type RpcError } from "../support/rpc_client.ts";
import { lockPath, shellLock } from "../support/shell_lock.ts";

const SETTING = "/proc/sys/fs/protected_regular";
const NOBODY = 65_534;

// The setting is the whole host's, so this file runs alone and puts it back.
for (const value of [0, 1, 2]) {
  test(
    `with fs.protected_regular=${value} a user's own lock file is claimed through root's agent`,
    {
      skip: requires("root", SETTING, "setpriv", "socat"),
    },
    async (t) => {
      const before = readFileSync(SETTING, "utf8");
      try {
        writeFileSync(SETTING, String(value));
      } catch (error) {
        return t.skip(`needs to set fs.protected_regular: ${(error as Error).message}`);
      }
      try {
        await claimOthersFile(value);
      } finally {
        writeFileSync(SETTING, before);
      }
    },
  );
}

async function claimOthersFile(value: number): Promise<void> {
  await using agent = await startAgent();
  const { lockDir, socket, runtimeDir } = agent.dirs;
  // Only then has the agent set the socket's own mode.
  await agent.events.waitFor(({ event }) => event === "agent-started");
  chmodSync(lockDir, 0o1777);
  for (const folder of [runtimeDir, dirname(runtimeDir)]) chmodSync(folder, 0o755);
  chmodSync(socket, 0o666);
  const path = lockPath(lockDir, "deploy");
  writeFileSync(path, "");
  chownSync(path, NOBODY, NOBODY);
  chmodSync(path, 0o666);
  await assertRootIsRefusedForItsOwner(agent);
  // With O_CREAT, as the shell protocol has it, not even root can open it.
  const shell = await shellLock(lockDir, "deploy");
  assert.equal(shell.kind, value === 0 ? "locked" : "no-file");
  if (shell.kind === "locked") await shell.lock.end();
  await assertNobodyCanClaim(socket);
}

async function assertRootIsRefusedForItsOwner(agent: AgentProcess): Promise<void> {
  await using client = await agent.client("root");
  await assert.rejects(client.request("claim", { name: "deploy" }), (error: RpcError) => {
    assert.equal(error.data.reason, "foreign-owner");
    assert.match(error.message, /: it belongs to uid 65534, expected uid 0$/);
    return true;
  });
}

async function assertNobodyCanClaim(socket: string): Promise<void> {
  const ids = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"];
  const child = spawn("setpriv", [...ids, "socat", "-", `UNIX-CONNECT:${socket}`], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exit = childExit(child);
  const client = new RpcClient(Duplex.from({ readable: child.stdout, writable: child.stdin }));
  const hello = await client.request("hello", { protocol: 1 });
  assert.match(hello.owner as string, new RegExp(`^uid:${NOBODY}/`));
  assert.ok((await client.request("claim", { name: "deploy" })).token);
  child.kill("SIGKILL");
  await exit;
}
