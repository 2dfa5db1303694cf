import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { inspect } from "node:util";
import test from "node:test";

import fc from "fast-check";

import { Command, commandOf, quote, secret, sh } from "../../controller/quote.ts";
import { findTool } from "../support/requires.ts";

const MARK = "\u0001end\u0001";

/** Bytes that a shell treats specially, among all others but NUL. */
const nasty = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.string({
    unit: fc.constantFrom(..."'\"\\$`!*?[]{}~#&|;<>()= \t\r\n-^%@\u00e9\u2028\u{1f512}"),
  }),
).map((text) => Buffer.from(text.replaceAll("\0", "")).toString());

/** What a real shell makes of these words. */
function wordsAsShellSeesThem(shell: string[], words: string): string[] {
  const script = `for word in ${words}; do printf '%s${MARK}' "$word"; done`;
  const [program, ...args] = shell;
  return execFileSync(program as string, [...args, "-c", script], { encoding: "utf8" })
    .split(MARK).slice(0, -1);
}

for (const shell of [["sh"], ["bash"], ["dash"], ["busybox", "sh"], ["zsh"], ["ksh"]]) {
  const [program] = shell as [string];
  const skip = findTool(program) === undefined ? `needs ${program}` : false;
  test(`quote() gives ${shell.join(" ")} exactly one word, whatever is in it`, { skip }, () => {
    const lists = fc.array(nasty, { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(lists, (values) => {
        const words = values.map(quote).join(" ");
        assert.deepEqual(wordsAsShellSeesThem(shell, words), values);
      }),
      { numRuns: 150 },
    );
  });
}

test("a template's values are data, and its text is shell", () => {
  const path = "it's; rm -rf $HOME";
  const command = sh`printf '%s|' ${path} ${[1, "two words", ""]} && echo done`;
  const stdout = execFileSync("sh", ["-c", command.reveal()], { encoding: "utf8" });
  assert.equal(stdout, "it's; rm -rf $HOME|1|two words||done\n");
});

test("commandOf() takes each word literally", () => {
  const stdout = execFileSync("sh", ["-c", commandOf(["echo", "$HOME", "*", ">x"]).reveal()], {
    encoding: "utf8",
  });
  assert.equal(stdout, "$HOME * >x\n");
  assert.throws(() => commandOf([]), TypeError);
});

test("plain words are left readable", () => {
  assert.equal(
    sh`cp ${"/etc/hosts"} ${"user@db1:a-b_c.d+e%f,g"}`.shown,
    "cp /etc/hosts user@db1:a-b_c.d+e%f,g",
  );
  assert.equal(quote("=ls"), "'=ls'");
  assert.equal(quote(""), "''");
});

test("a secret reaches the command and nothing that shows it", () => {
  const command = sh`mysql -p${secret("hunter2")} ${[secret("pw"), "db"]}`;
  assert.match(command.reveal(), /hunter2.*pw db/);
  const shown = [
    command.shown,
    `${command}`,
    JSON.stringify(command),
    inspect(command),
    inspect(secret("hunter2")),
  ];
  for (const text of shown) assert.doesNotMatch(text, /hunter2/);
  assert.equal(command.shown, "mysql -p'***' '***' db");
});

test("what cannot be an argument is refused", () => {
  assert.throws(() => quote("a\0b"), TypeError);
  assert.throws(() => new Command("a\0b"), TypeError);
  assert.throws(() => sh`rm -rf ${undefined as unknown as string}`, TypeError);
  assert.throws(() => sh`rm -rf ${null as unknown as string}`, TypeError);
});
