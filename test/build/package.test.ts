import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { test, type TestContext } from "node:test";

import { runTool } from "../../build/run_tool.ts";
import { findBun, findDeno, findTsc } from "../../build/tools.ts";

const skip = ["dist/controller/mod.js", "dist/controller/mod.d.ts", "dist/sshlock"]
  .filter((path) => !existsSync(path)).map((path) => `needs ${path}: build first`)[0];

/** A project that has installed the packed npm package, and nothing else but Node's types. */
function makeConsumer(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "sshlock-consumer-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const modules = join(folder, "node_modules");
  mkdirSync(join(modules, "@types"), { recursive: true });
  const tarball = runTool("npm", ["pack", "--silent", `--pack-destination=${folder}`]).trim();
  runTool("tar", ["-xzf", join(folder, tarball), "-C", folder]);
  runTool("mv", [join(folder, "package"), join(modules, "sshlock")]);
  runTool("cp", ["-r", resolve("node_modules/@types/node"), join(modules, "@types/node")]);
  runTool("cp", ["-r", resolve("node_modules/undici-types"), join(modules, "undici-types")]);
  writeFileSync(join(folder, "package.json"), JSON.stringify({ type: "module" }));
  return folder;
}

test("a TypeScript consumer gets the types without a further package", { skip }, (t) => {
  const folder = makeConsumer(t);
  const program = [
    `import { connect } from "sshlock";`,
    `const open: (...args: never[]) => Promise<AsyncDisposable> = connect;`,
    `// @ts-expect-error: it is no number, so the types have been read`,
    `const wrong: number = connect;`,
    `export { open, wrong };`,
  ];
  writeFileSync(join(folder, "consumer.mts"), program.join("\n"));
  for (const [module, resolution] of [["NodeNext", "NodeNext"], ["ESNext", "Bundler"]] as const) {
    const compilerOptions = {
      module,
      moduleResolution: resolution,
      target: "ES2023",
      lib: ["ES2023", "ESNext.Disposable"],
      types: ["node"],
      strict: true,
      noEmit: true,
    };
    const config = { compilerOptions, files: ["consumer.mts"] };
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
    runTool(process.execPath, [findTsc(), "-p", folder]);
  }
});

for (
  const [runtime, command] of [
    ["Node", [process.execPath]],
    ["Deno", [findDeno(), "run", "-A"]],
    ["Bun", [findBun()]],
  ] as const
) {
  test(`the installed package can be imported on ${runtime}`, { skip }, (t) => {
    const folder = makeConsumer(t);
    const program = join(folder, "consumer.mjs");
    writeFileSync(program, `import * as s from "sshlock";\nconsole.log(typeof s.connect);\n`);
    const [executable, ...flags] = command;
    assert.equal(runTool(executable, [...flags, program]), "function\n");
  });
}

test("the package has no run-time dependencies and no program that is not built", { skip }, (t) => {
  const folder = join(makeConsumer(t), "node_modules/sshlock");
  const { dependencies, bin } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  assert.equal(dependencies, undefined);
  for (const path of Object.values<string>(bin)) {
    assert.match(readFileSync(join(folder, path), "utf8"), /^#!\/usr\/bin\/env node\n/);
  }
});
