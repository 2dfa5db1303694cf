import assert from "node:assert/strict";
import { test } from "node:test";

import { checkDocs } from "../../build/check_docs.ts";
import { parseSource } from "../../build/source_files.ts";

const check = (text: string) => checkDocs([parseSource("a.ts", text)]);

const undocumented: [string, string][] = [
  ["a function", `export function f() {}`],
  ["an async default function", `export default async function () {}`],
  ["a class", `export class f {}`],
  ["a constant", `export const f = 1;`],
  ["a type", `export type f = 1;`],
  ["an interface", `export interface f {}`],
  ["a name listed later", `const f = 1;\nexport { f as g };`],
  ["a declaration under a line comment", `// Says something.\nexport const f = 1;`],
  ["an empty docstring", `/** */\nexport const f = 1;`],
  ["a docstring of tags alone", `/** @internal */\nexport const f = 1;`],
  ["overloads", `export function f(a: 1): 1;\nexport function f(a: unknown) { return a; }`],
];

for (const [what, text] of undocumented) {
  test(`checkDocs() objects to ${what} without a docstring`, () => {
    const findings = check(text);
    assert.equal(findings.length, 1);
    assert.match(findings[0] ?? "", /^a\.ts:\d: export (f|default) has no docstring$/);
  });
}

const documented: [string, string][] = [
  ["a documented function", `/** Does it. */\nexport function f() {}`],
  ["a documented name that is listed later", `/** It. */\nconst f = 1;\nexport { f };`],
  ["re-exports", `export { f } from "./f.ts";\nexport * from "./g.ts";`],
  ["what is not exported", `function f() {}\nconst g = 1;`],
  [
    "one documented overload",
    `/** F. */\nexport function f(a: 1): 1;\nexport function f(a: 2): 2;`,
  ],
];

for (const [what, text] of documented) {
  test(`checkDocs() accepts ${what}`, () => {
    assert.deepEqual(check(text), []);
  });
}
