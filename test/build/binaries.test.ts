import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { readElfKind } from "../../build/elf.ts";
import { IntegrityError, verify } from "../../build/runtimes.ts";
import { TARGETS } from "../../build/targets.ts";
import { findBun, findDeno } from "../../build/tools.ts";
import { runTool, ToolFailedError } from "../../build/run_tool.ts";

test("readElfKind() tells the architecture and loader of this machine's programs", () => {
  const kind = readElfKind(process.execPath);
  assert.equal(kind.arch, process.arch);
  assert.match(kind.interpreter ?? "", /^\/lib.*ld-/);
});

test("readElfKind() refuses what is no ELF file", () => {
  assert.throws(() => readElfKind("package.json"), TypeError);
});

test("verify() accepts a file with the pinned hash and refuses another", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "sshlock-verify-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, "file");
  const emptySha512 =
    "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==";
  writeFileSync(path, "");
  verify(path, emptySha512);
  writeFileSync(path, "x");
  assert.throws(() => verify(path, emptySha512), IntegrityError);
});

test("every target has its own name, and its runtime is pinned in package-lock.json", () => {
  const { packages } = JSON.parse(readFileSync("package-lock.json", "utf8"));
  assert.equal(new Set(TARGETS.map(({ name }) => name)).size, TARGETS.length);
  for (const { runtimePackage } of TARGETS) {
    const pin = packages[`node_modules/${runtimePackage}`];
    assert.equal(pin?.version, packages["node_modules/bun"].version, runtimePackage);
    assert.match(pin.integrity, /^sha512-/);
  }
});

test("package-lock.json names no registry", () => {
  assert.doesNotMatch(readFileSync("package-lock.json", "utf8"), /"resolved"/);
});

test("Bun and Deno are found without their install scripts, and start", () => {
  assert.match(runTool(findBun(), ["--version"]), /^1\./);
  assert.match(runTool(findDeno(), ["--version"]), /^deno 2\./);
});

test("runTool() throws ToolFailedError with what the program printed", () => {
  assert.throws(
    () => runTool("sh", ["-c", "echo tell; exit 3"]),
    (error) =>
      error instanceof ToolFailedError && error.exitCode === 3 && /tell/.test(error.message),
  );
});
