import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { after, test } from "node:test";

import { type FileOutcome, type RunForm, runTestFile } from "../../build/run_test_file.ts";
import type { TestRun } from "../../build/test_plan.ts";
import type { TestRecord } from "../../build/test_record.ts";

// What node:test can do wrong must be told on each runtime: a runner that cannot fail proves nothing.

const folder = mkdtempSync(join(tmpdir(), "sshlock-runner-"));
after(() => rmSync(folder, { recursive: true }));

async function runProgram(
  runtime: TestRun["runtime"],
  text: string,
  onNode: readonly TestRecord[] = [],
): Promise<readonly TestRecord[]> {
  return (await runOutcome(runtime, text, onNode)).records;
}

async function runOutcome(
  runtime: TestRun["runtime"],
  text: string,
  onNode: readonly TestRecord[] = [],
  form?: RunForm,
): Promise<FileOutcome> {
  const program = join(mkdtempSync(join(folder, "case-")), "case.test.mjs");
  writeFileSync(program, `import { describe, test } from "node:test";\n${text}\n`);
  const bundle = { name: "case.test.ts", program: relative(".", program), startsAgent: false };
  const run = { bundle, runtime, agent: undefined, label: `case ${runtime}` };
  return await runTestFile(run, onNode, new AbortController().signal, form);
}

test("what a test tells is kept, and node's own totals are not", async () => {
  const text = `test("a", (t) => t.diagnostic("5 ms")); describe("s", () => {
    test("b", async (t) => { await null; t.diagnostic("two\\nlines"); });
  });`;
  assert.deepEqual((await runOutcome("node", text)).told, ["5 ms", "two\nlines"]);
});

for (const runtime of ["node", "deno", "bun"] as const) {
  const kinds = async (text: string) => (await runProgram(runtime, text)).map(({ kind }) => kind);

  test(`a passing test passes on ${runtime}`, async () => {
    assert.deepEqual(await kinds(`test("a", () => {});`), ["passed"]);
  });

  test(`a failing test fails on ${runtime}, with its error`, async () => {
    const [record] = await runProgram(runtime, `test("a", () => { throw new Error("boom"); });`);
    assert.equal(record?.kind, "failed");
    assert.match(record.error, /boom/);
  });

  test(`a rejected asynchronous test fails on ${runtime}`, async () => {
    assert.deepEqual(await kinds(`test("a", async () => { await null; throw new Error("b"); });`), [
      "failed",
    ]);
  });

  test(`a failing test of a suite fails on ${runtime} under its full name`, async () => {
    const records = await runProgram(
      runtime,
      `describe("s", () => { test("a", () => {}); test("b", () => { throw new Error("c"); }); });`,
    );
    const named = records.map(({ kind, name }) => `${kind} ${name}`);
    assert.deepEqual(named, ["passed s > a", "failed s > b"]);
  });

  test(`a failing part of a test fails on ${runtime}`, async () => {
    const text = `test("a", async (t) => { await t.test("b", () => { throw new Error("c"); }); });`;
    assert.deepEqual(await kinds(text), ["failed"]);
  });

  test(`a file without a test fails on ${runtime}`, async () => {
    assert.deepEqual(await kinds(`await null;`), ["failed"]);
  });

  test(`a file that cannot be loaded fails on ${runtime}`, async () => {
    const text = `test("a", () => {}); throw new Error("at the top"); test("b", () => {});`;
    const onNode = ["a", "b"].map((name) => ({ kind: "passed", name }) as const);
    const records = await runProgram(runtime, text, runtime === "node" ? [] : onNode);
    assert.ok(records.some(({ kind }) => kind === "failed"));
  });

  test(`a file that ends early fails on ${runtime}`, async () => {
    const found = await kinds(`test("a", () => {}); test("b", () => { process.exit(3); });`);
    assert.ok(found.includes("failed"));
  });

  test(`a test that skips itself is skipped on ${runtime}, with the reason that Node knew`, async () => {
    const [record] = await runProgram(
      runtime,
      `test("leaves", (t) => { t.skip("known from Node"); });`,
      [{ kind: "skipped", name: "leaves", reason: "known from Node" }],
    );
    assert.deepEqual(record, { kind: "skipped", name: "leaves", reason: "known from Node" });
  });
}

test("a file killed by a signal fails", async () => {
  const records = await runProgram(
    "node",
    `test("a", () => process.kill(process.pid, "SIGKILL"));`,
  );
  assert.match(records.map((each) => each.kind === "failed" ? each.error : "").join(), /SIGKILL/);
});

test("a file that takes longer than its form allows is killed and fails", async () => {
  const form = { fileLimitMs: 500, env: {} };
  const text = `test("a", () => new Promise(() => setInterval(() => {}, 1_000)));`;
  const { records } = await runOutcome("node", text, [], form);
  const told = records.map((each) => each.kind === "failed" ? each.error : "").join();
  assert.match(told, /did not end within 0\.5 s and was killed/);
});

test("a file gets the variables of its form", async () => {
  const form = { fileLimitMs: 60_000, env: { SSHLOCK_TEST_SOAK: "5" } };
  const text = `test("a", (t) => t.diagnostic(process.env.SSHLOCK_TEST_SOAK));`;
  assert.deepEqual((await runOutcome("node", text, [], form)).told, ["5"]);
});

test("a suite whose after-hook fails fails", async () => {
  const text = `import { after } from "node:test";
    describe("s", () => { after(() => { throw new Error("late"); }); test("a", () => {}); });`;
  const records = await runProgram("node", text);
  assert.ok(records.some(({ kind }) => kind === "failed"));
});
