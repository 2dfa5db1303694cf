import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import test from "node:test";
import { promisify } from "node:util";
import { buildAgent, type Patch, PatchFailedError } from "./agent_build.ts";
import { requires } from "./requires.ts";
import { makeTempDir } from "./temp_dir.ts";

const run = promisify(execFile);

const greeting: Patch = {
  file: "protocol/version.ts",
  find: `typeof __SSHLOCK_VERSION__ === "string"`,
  replace: `typeof __SSHLOCK_VERSION__ === "patched"`,
};

test("buildAgent() builds what the source says with the patch made", async () => {
  const argv = await buildAgent({ name: "unit-patched", patches: [greeting] });
  assert.match((await version(argv)).stdout, /0\.0\.0-source/);
});

test("a build is made once for the same sources, and anew for other patches", async () => {
  const options = { name: "unit-cached", patches: [greeting] };
  const first = await buildAgent(options);
  const { mtimeMs, ino } = statSync(first.at(-1) as string);
  assert.deepEqual(await buildAgent(options), first);
  assert.equal(statSync(first.at(-1) as string).mtimeMs, mtimeMs);
  assert.equal(statSync(first.at(-1) as string).ino, ino);
  const other = { ...greeting, replace: "false" };
  assert.notDeepEqual(await buildAgent({ ...options, patches: [other] }), first);
});

test("the same build made twice at once is one build", async () => {
  const options = { name: "unit-race", patches: [{ ...greeting, replace: `${Date.now()} === 0` }] };
  const [one, two] = await Promise.all([buildAgent(options), buildAgent(options)]);
  assert.deepEqual(one, two);
  await version(one);
});

test("a patch that does not occur exactly once is an error that shows it", async () => {
  const never = { ...greeting, find: "no such text" };
  const twice = { ...greeting, find: "typeof __SSHLOCK" };
  const message = (count: number, find: string) =>
    `Cannot patch protocol/version.ts: it occurs ${count} times, not once: "${find}"`;
  await assert.rejects(buildAgent({ name: "unit-fails", patches: [never] }), {
    name: "PatchFailedError",
    message: message(0, never.find),
  });
  await assert.rejects(buildAgent({ name: "unit-fails", patches: [twice] }), {
    message: message(2, twice.find),
  });
  // The second change looks at what the first one has made.
  await assert.rejects(
    buildAgent({ name: "unit-fails", patches: [greeting, greeting] }),
    PatchFailedError,
  );
  const nowhere = { ...greeting, file: "agent/no_such_file.ts" };
  await assert.rejects(buildAgent({ name: "unit-fails", patches: [nowhere] }), PatchFailedError);
  const elsewhere = { file: "controller/mod.ts", find: "@module", replace: "@module " };
  await assert.rejects(
    buildAgent({ name: "unit-fails", patches: [elsewhere] }),
    /it is no part of the agent/,
  );
});

test("a build with crash points is killed or stopped where the environment says", async () => {
  const argv = await buildAgent({ name: "unit-crash", crashPoints: true });
  await using dir = await makeTempDir();
  const [program, ...args] = argv as [string, ...string[]];
  const serve = run(program, [...args, "serve", "--runtime-dir", dir.path], {
    env: { ...process.env, SSHLOCK_CRASH_AT: "serve.run-locked:1" },
  });
  await assert.rejects(serve, { signal: "SIGKILL" });
});

test("the product has nothing of the crash points", {
  skip: requires("dist/agent.js", "dist/sshlock-agent"),
}, () => {
  const source = readFileSync("agent/crash_points.ts", "utf8");
  const points = [...source.matchAll(/"([a-z-]+\.[a-z-]+)"/g)].map(([, point]) => point as string);
  assert.ok(points.length > 0);
  for (const file of ["dist/agent.js", "dist/sshlock-agent"]) {
    const program = readFileSync(file);
    const found = [...points, "crashPoint", "SSHLOCK_CRASH_AT"]
      .filter((text) => program.includes(text));
    assert.deepEqual(found, [], file);
  }
});

test("a compiled build answers as the product does", {
  skip: requires("dist/agent.js", "dist/sshlock-agent"),
}, async () => {
  const argv = await buildAgent({ name: "unit-binary", crashPoints: true, engine: "binary" });
  assert.equal(argv.length, 1);
  const product = (await version(["dist/sshlock-agent"])).stdout.split(/\s/).slice(0, 2);
  assert.deepEqual((await version(argv)).stdout.split(/\s/).slice(0, 2), product);
});

function version([program, ...args]: string[]) {
  return run(program as string, [...args, "version"]);
}
