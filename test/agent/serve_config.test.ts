import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runCommand } from "../support/agent_command.ts";
import { type AgentDirs, makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { connectRpc, RpcError } from "../support/rpc_client.ts";

interface Hello {
  heartbeatMs: number;
  giveUpMs: number;
  silenceMs: number;
}

test("an agent works with what its config file says", async () => {
  await using made = await makeAgentDirs();
  const config = writeConfig(made.dirs, {
    heartbeatMs: 1_000,
    giveUpMs: 4_000,
    silenceMs: 5_000,
    onEnd: "drain",
    graceMs: 77,
    maxClaimsPerUser: 2,
  });
  await using agent = await startAgent({ dirs: made.dirs, args: ["--config", config] });
  const what = "agent-started";
  const started = await agent.events.waitFor(({ event }) => event === what, { what });
  assert.equal(started.config, config);

  await using client = await connectRpc(agent.dirs.socket);
  const { heartbeatMs, giveUpMs, silenceMs } = await client.request<Hello>("hello", {
    protocol: 1,
    owner: "a",
  });
  assert.deepEqual([heartbeatMs, giveUpMs, silenceMs], [1_000, 4_000, 5_000]);
  await using brief = await connectRpc(agent.dirs.socket);
  const times = await brief.request<Hello>("hello", { protocol: 1, owner: "b", silenceMs: 500 });
  assert.deepEqual([times.heartbeatMs, times.giveUpMs, times.silenceMs], [100, 400, 500]);

  await client.request("claim", { name: "x" });
  await client.request("claim", { name: "y", onEnd: "leave", graceMs: 1 });
  const refused = await client.request("claim", { name: "z" }).then(() => undefined, (e) => e);
  assert.ok(refused instanceof RpcError);
  assert.equal(refused.data?.code, "limit");
  assert.equal(refused.data?.max, 2);
  assert.deepEqual(recordedEnd(agent.dirs, "x"), { onEnd: "drain", graceMs: 77 });
  assert.deepEqual(recordedEnd(agent.dirs, "y"), { onEnd: "leave", graceMs: 1 });
});

test("an agent does not start with a config file that it cannot follow", async () => {
  await using made = await makeAgentDirs();
  const path = writeConfig(made.dirs, { gracems: 5 });
  const message = `sshlock-agent: Cannot use config file ${path}, line 1: there is no key ` +
    `"gracems"; the nearest one is "graceMs"\n`;
  for (
    const args of [["serve"], ["serve", "--check-config"], ["serve", "--check-config", "--json"]]
  ) {
    const { code, stderr } = await runCommand(made.dirs, args, { env: { SSHLOCK_CONFIG: path } });
    assert.equal(stderr, message);
    assert.equal(code, 125);
  }
  const doctor = await runCommand(made.dirs, ["doctor", "--json", "--config", path]);
  const { findings } = JSON.parse(doctor.stdout) as { findings: { id: string; state: string }[] };
  assert.equal(findings.find(({ id }) => id === "config-file")?.state, "fail");
  const missing = await runCommand(made.dirs, ["serve", "--config", `${path}.none`]);
  assert.match(missing.stderr, /agent\.json\.none: there is no such file\n$/);
  assert.equal(missing.code, 125);
});

test("serve --check-config prints what the file makes, and starts nothing", async () => {
  await using made = await makeAgentDirs();
  const path = writeConfig(made.dirs, { graceMs: 1_234 });
  const args = ["serve", "--check-config", "--config", path];
  const table = await runCommand(made.dirs, args);
  assert.equal(table.code, 0, table.stderr);
  assert.match(table.stdout, /^graceMs +1234 +5000$/m);
  assert.match(table.stdout, /^adminGroup +\(none\) +\(none\)$/m);
  const json = JSON.parse((await runCommand(made.dirs, [...args, "--json"])).stdout);
  assert.equal(json.path, path);
  assert.equal(json.isPresent, true);
  assert.equal(json.config.graceMs, 1_234);
  assert.equal(json.config.silenceMs, 15_000);
  // What it prints is a config file itself.
  writeFileSync(path, JSON.stringify(json.config));
  assert.equal((await runCommand(made.dirs, args)).code, 0);
});

function writeConfig({ runtimeDir }: AgentDirs, config: object): string {
  const path = join(runtimeDir, "agent.json");
  writeFileSync(path, JSON.stringify(config), { mode: 0o644 });
  return path;
}

/** What the record of a lock says of its session's end. */
function recordedEnd({ runtimeDir }: AgentDirs, name: string): { onEnd: string; graceMs: number } {
  const record = JSON.parse(readFileSync(join(runtimeDir, "locks", `${name}.json`), "utf8"));
  const { onEnd, graceMs } = record.ownerships[0].grants[0];
  return { onEnd, graceMs };
}

test("an agent takes over what is held, also where fewer claims are allowed by now", async () => {
  await using made = await makeAgentDirs();
  const first = await startAgent({ dirs: made.dirs });
  await using client = await first.client("a");
  for (const name of ["x", "y"]) await client.request("claim", { name, onEnd: "leave" });
  await first.kill();
  const config = writeConfig(made.dirs, { maxClaimsPerUser: 1 });
  await using second = await startAgent({ dirs: made.dirs, args: ["--config", config] });
  const adopted = second.events.all.filter(({ event }) => event === "lock-adopted");
  assert.deepEqual(adopted.map(({ name }) => name).sort(), ["x", "y"]);
  await using other = await second.client("b");
  const refused = await other.request("claim", { name: "z" }).then(() => undefined, (e) => e);
  assert.equal((refused as RpcError | undefined)?.data?.code, "limit");
});
