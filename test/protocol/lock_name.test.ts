import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { isLockName, lockFileName, lockNameOfFile } from "../../protocol/lock_name.ts";

const FIRST = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const names = fc.tuple(
  fc.constantFrom(...FIRST),
  fc.string({ unit: fc.constantFrom(...FIRST, ..."._@:+-"), maxLength: 99 }),
).map((parts) => parts.join(""));

test("every name of the allowed characters and length is one, and survives the file name", () => {
  fc.assert(fc.property(names, (name) => {
    assert.ok(isLockName(name));
    assert.equal(lockNameOfFile(lockFileName(name)), name);
  }));
});

test("no lock name can leave its folder, whatever the text", () => {
  fc.assert(fc.property(fc.string({ unit: "binary", maxLength: 120 }), (text) => {
    if (isLockName(text)) assert.match(text, /^[A-Za-z0-9][^/\0\n]{0,99}$/);
  }));
  const refused = ["", ".", "..", ".a", "-a", "a/b", "a\0", "a\n", "a b", "é", "a".repeat(101)];
  for (const name of refused) assert.ok(!isLockName(name), JSON.stringify(name));
  for (const name of [undefined, null, 1, {}, ["a"], true]) assert.ok(!isLockName(name));
});

test("files that are no lock files have no lock name", () => {
  for (const file of ["deploy", "session-lock-", "session-lock-.x", "session-lock-a/b"]) {
    assert.equal(lockNameOfFile(file), undefined);
  }
});
