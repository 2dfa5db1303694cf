import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { startAgent, whyNoAgent } from "../support/agent_process.ts";
import { requires } from "../support/requires.ts";

const page = readFileSync("docs/protocol.md", "utf8");
const skip = whyNoAgent() ?? requires("python3");

test("a client written from the page alone claims, pings and releases", { skip }, async () => {
  await using agent = await startAgent();
  const first = await runClient(agent.dirs.socket, "deploy");
  const [, token] = /^token (\d+)\nreleased \1\n$/.exec(first.stdout) ?? assert.fail(first.stdout);
  assert.equal(first.code, 0);
  const second = await runClient(agent.dirs.socket, "deploy");
  assert.ok(Number(second.stdout.split(/\s/)[1]) > Number(token));
});

test("that client is told who has the lock, and waits for it", { skip }, async () => {
  await using agent = await startAgent();
  await using other = await agent.client("somebody else");
  const { token } = await other.request<{ token: number }>("claim", { name: "deploy" });
  const refused = await runClient(agent.dirs.socket, "deploy");
  assert.equal(refused.code, 124);
  const holder = JSON.parse(refused.stdout.replace(/^contended /, ""));
  assert.equal(holder.owner, "somebody else");
  assert.equal(holder.token, token);

  await other.request("watch", { name: "deploy" });
  const waiting = runClient(agent.dirs.socket, "deploy", "30000");
  await other.messages.waitFor((message) =>
    (message.params as { event?: string } | undefined)?.event === "queued"
  );
  await other.request("release", { name: "deploy" });
  assert.equal((await waiting).code, 0);
  assert.equal((await runClient(agent.dirs.socket, "no/name")).code, 125);
});

test("the page's line for a shell shows who has which lock", {
  skip: whyNoAgent() ?? requires("socat"),
}, async () => {
  await using agent = await startAgent();
  await using other = await agent.client("somebody");
  await other.request("claim", { name: "deploy" });
  const line = page.split("\n").find((line) => line.includes("| socat")) ?? assert.fail("no line");
  const { stdout } = await run("sh", [
    "-c",
    line.replace("/run/sshlock/agent.sock", agent.dirs.socket),
  ]);
  assert.equal(JSON.parse(stdout).result.locks[0].holders[0].owner, "somebody");
});

test("the page names every error code and every limit that the code has", () => {
  const source = (path: string) => readFileSync(path, "utf8");
  const [, union] = /WireErrorCode =([^;]+);/.exec(source("protocol/wire_error.ts"))!;
  for (const [, code] of union!.matchAll(/"([a-z-]+)"/g)) {
    assert.ok(page.includes(`\`${code}\``), `no ${code}`);
  }
  const [, losses] = /LossReason =([^;]+);/.exec(source("protocol/messages.ts"))!;
  for (const [, reason] of losses!.matchAll(/"([a-z-]+)"/g)) {
    assert.ok(page.includes(`\`${reason}\``), `no ${reason}`);
  }
  const [, refusals] = /LockFileReason =([^;]+);/.exec(source("agent/lock_file.ts"))!;
  for (const [, reason] of refusals!.matchAll(/"([a-z-]+)"/g)) {
    assert.ok(page.includes(`\`${reason}\``), `no ${reason}`);
  }
});

test("the page's example is what it says: lines of JSON, and those bytes", () => {
  const lines = page.split("\n").map((line) => /^ {4}[CA] (.*)$/.exec(line)?.[1])
    .filter((line) => line !== undefined);
  assert.ok(lines.length > 5);
  for (const line of lines) assert.equal(JSON.parse(line).jsonrpc, "2.0");
  const hex = Buffer.from(lines[0] + "\n").toString("hex").replace(/..(?=.)/g, "$& ");
  const [, begin, end] = /begins `([^`]+)` and ends `([^`]+)`/.exec(page.replace(/\s+/g, " "))!;
  assert.ok(hex.startsWith(begin!) && hex.endsWith(end!));
});

type Outcome = { code: number; stdout: string };

function runClient(...args: string[]): Promise<Outcome> {
  return run("python3", ["test/fixtures/minimal_client.py", ...args]);
}

function run(program: string, args: string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(program, args, (error, stdout) => {
      resolve({ code: (error?.code as number | undefined) ?? 0, stdout });
    });
  });
}
