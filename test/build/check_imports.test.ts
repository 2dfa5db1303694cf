import assert from "node:assert/strict";
import { test } from "node:test";

import { checkImports } from "../../build/check_imports.ts";
import { parseSource } from "../../build/source_files.ts";

const check = (path: string, text: string) => checkImports([parseSource(path, text)]);

const refused: [string, string, RegExp][] = [
  ["protocol/a.ts", `import { x } from "../agent/x.ts";`, /protocol imports agent\/x.ts/],
  ["protocol/a.ts", `export * from "../controller/x.ts";`, /protocol imports controller/],
  ["agent/a.ts", `import type { X } from "../controller/x.ts";`, /agent imports controller/],
  ["agent/cli/a.ts", `await import("../../controller/x.ts");`, /agent imports controller/],
  ["agent/a.ts", `import { x } from "../build/x.ts";`, /agent imports build/],
  ["controller/a.ts", `import { x } from "../agent/x.ts";`, /controller imports agent/],
  ["controller/a.ts", `let x: import("../agent/x.ts").X;`, /controller imports agent/],
  ["controller/cli/a.ts", `import "../../test/x.ts";`, /controller imports test/],
  ["agent/a.ts", `import { dlopen } from "bun:ffi";`, /only agent\/libc.ts imports bun:ffi/],
  ["agent/a.ts", `await import("bun:ffi" as string);`, /only agent\/libc.ts imports bun:ffi/],
  ["agent/a.ts", `Deno.dlopen("libc.so.6", {});`, /only agent\/libc.ts touches FFI/],
  ["agent/sub/libc.ts", `Deno.dlopen("libc.so.6", {});`, /only agent\/libc.ts touches FFI/],
  ["controller/a.ts", `import { Client } from "ssh2";`, /only controller\/ssh_transport.ts/],
  ["controller/a.ts", `import x from "ssh2/lib/x.js";`, /only controller\/ssh_transport.ts/],
  ["agent/a.ts", `process.exit(1);`, /only main.ts exits/],
  ["agent/a.ts", `import { exit } from "node:process";`, /only main.ts exits/],
  ["controller/a.ts", `globalThis.Deno.exit(1);`, /only main.ts exits/],
  ["agent/a.ts", `console.log("x");`, /only output.ts and log.ts print/],
  ["controller/a.ts", `process.stderr.write("x");`, /only output.ts and log.ts print/],
  ["controller/a.ts", `process\n  .stdout?.write("x");`, /only output.ts and log.ts print/],
];

for (const [path, text, why] of refused) {
  test(`checkImports() refuses ${JSON.stringify(text)} in ${path}`, () => {
    const findings = check(path, text);
    assert.equal(findings.length, 1);
    assert.match(findings[0] ?? "", why);
  });
}

const accepted: [string, string][] = [
  ["protocol/a.ts", `import { x } from "./x.ts"; import { y } from "node:buffer";`],
  ["agent/cli/a.ts", `import { x } from "../x.ts"; import { y } from "../../protocol/y.ts";`],
  ["controller/a.ts", `import { y } from "../protocol/y.ts";`],
  ["agent/libc.ts", `await import("bun:ffi"); Deno.dlopen("libc.so.6", {});`],
  ["controller/ssh_transport.ts", `import { Client } from "ssh2";`],
  ["agent/main.ts", `process.exit(1);`],
  ["controller/cli/output.ts", `process.stdout.write("x"); console.error("y");`],
  ["agent/log.ts", `process.stderr.write("x");`],
  ["agent/a.ts", `socket.pipe(process.stdout); process.exitCode = 3; // process.exit(1)`],
  ["build/a.ts", `import { x } from "../agent/x.ts"; process.exit(1); console.log(1);`],
];

for (const [path, text] of accepted) {
  test(`checkImports() accepts ${JSON.stringify(text)} in ${path}`, () => {
    assert.deepEqual(check(path, text), []);
  });
}

test("checkImports() names the line", () => {
  assert.match(check("agent/a.ts", `\n\nconsole.log(1);`)[0] ?? "", /^agent\/a\.ts:3: /);
});
