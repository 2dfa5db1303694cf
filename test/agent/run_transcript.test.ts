// test/transcripts/agent_run.txt is a row of commands with what they print and exit with.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { hostname, userInfo } from "node:os";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { agentCommand, builtHolder, dirArgs, startAgent } from "../support/agent_process.ts";
import { childExit } from "../support/child.ts";

const TRANSCRIPT = "test/transcripts/agent_run.txt";

test(`the transcript ${TRANSCRIPT} is what happens`, async () => {
  await using agent = await startAgent();
  const holder = await agent.client("respirate/42");
  await holder.request("claim", { name: "busy", purpose: "repair db1" });
  const words = agentCommand().map((word) => word.startsWith("dist/") ? resolve(word) : word);
  const all = [...words, ...dirArgs(agent.dirs), "--holder", resolve(builtHolder())];
  const program = join(agent.dirs.runtimeDir, "sshlock-agent");
  writeFileSync(program, `#!/bin/sh\nexec ${all.map((word) => `'${word}'`).join(" ")} "$@"\n`, {
    mode: 0o755,
  });
  const env = { ...process.env, PATH: `${agent.dirs.runtimeDir}:${process.env.PATH}` };
  const expected = readFileSync(TRANSCRIPT, "utf8");
  const [title, ...blocks] = expected.split(/^(?=\$ )/m);
  let actual = title ?? "";
  for (const block of blocks) {
    const command = (block.split("\n")[0] as string).slice(2);
    const { stdout, stderr, code } = await runShell(command, env);
    const output = section("stdout", normalise(stdout)) + section("stderr", normalise(stderr));
    actual += `$ ${command}\n${output}--- exit ${code}\n\n`;
  }
  actual = `${actual.trimEnd()}\n`;
  if (process.env.UPDATE_TRANSCRIPTS === "1") writeFileSync(TRANSCRIPT, actual);
  else assert.equal(actual, expected);
});

async function runShell(command: string, env: NodeJS.ProcessEnv) {
  const child = spawn("sh", ["-c", command], { env, stdio: ["ignore", "pipe", "pipe"] });
  const closed = new Promise((done) => child.once("close", done));
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => stdout += text);
  child.stderr.setEncoding("utf8").on("data", (text: string) => stderr += text);
  const { code } = await childExit(child);
  await closed;
  return { stdout, stderr, code };
}

function section(name: string, text: string): string {
  return text === "" ? "" : `--- ${name}\n${text}`;
}

/** What differs from run to run and from host to host. */
function normalise(text: string): string {
  const { username, uid } = userInfo();
  return text
    .replaceAll(`${username}@${hostname()}/`, "USER@HOST/")
    .replaceAll(/USER@HOST\/\d+/g, "USER@HOST/PID")
    .replaceAll(`(${username}, uid ${uid}`, "(USER, uid UID")
    .replaceAll(`(${username})`, "(USER)")
    .replaceAll(/\b\d{10,}\b/g, "TOKEN")
    .replaceAll(/\b\d+(\.\d+)? (ms|s|m)\b/g, "TIME");
}
