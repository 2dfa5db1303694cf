import assert from "node:assert/strict";
import { chmodSync, chownSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { DEFAULT_CONFIG, timesFor } from "../../agent/config.ts";
import { ConfigError, configPlace, findConfig, readConfig } from "../../agent/config_file.ts";
import { requires, root } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";

const dir = await makeTempDir("config");
const path = join(dir.path, "agent.json");
after(() => dir.remove());

const WRONG: [what: string, text: string, line: number | undefined, says: RegExp][] = [
  ["an empty file", "", 1, /^the file ends; a config file is one JSON object/],
  ["a list", "[]", 1, /^there is "\["; a config file is one JSON object/],
  ["a trailing comma", '{"graceMs": 1,\n}', 2, /^there is "}"; take out the comma/],
  ["a missing comma", '{"graceMs": 1\n"silenceMs": 2}', 2, /a comma and the next key, or "}"/],
  ["a missing colon", '{\n"graceMs" 1}', 2, /a colon is due after "graceMs"/],
  ["a comment", '{\n\n // so\n"graceMs": 1}', 3, /^JSON has no comments; take it out$/],
  ["single quotes", "{'graceMs': 1}", 1, /a key in double quotes is due, as in "graceMs"/],
  ["a unit", '{"graceMs": 5s}', 1, /^there is "5s"; the value of "graceMs" must be a number/],
  ["a nested value", '{"limits": {}}', 1, /"limits" must be a number or text, neither list/],
  ["a key twice", '{"graceMs": 1,\n"graceMs": 2}', 2, /^key "graceMs" is there twice/],
  ["more after the end", "{}\n{}", 2, /nothing may follow the last "}"/],
  ["a misspelt key", '{\n"gracems": 1}', 2, /^there is no key "gracems"; .* is "graceMs"$/],
  ["another misspelt key", '{"onend": "kill"}', 1, /the nearest one is "onEnd"$/],
  ["a name of Object's", '{"constructor": 1}', 1, /^there is no key "constructor"/],
  ["text for a number", '{"graceMs": "5"}', 1, /is "5"; it must be a whole number of milli/],
  ["a fraction", '{"graceMs": 1.5}', 1, /"graceMs" is 1.5; it must be a whole number/],
  ["a number below its range", '{"silenceMs": 199}', 1, /is 199; .* 200 to 3600000$/],
  ["a number above its range", '{"maxParkMs": 1e10}', 1, /is 10000000000; .* 0 to 2147483647$/],
  ["no claims at all", '{"maxClaimsPerUser": 0}', 1, /is 0; it must be a whole number, 1 to/],
  ["another policy", '{"onEnd": "stop"}', 1, /is "stop"; .* "kill", "drain", "leave"$/],
  ["no such group", '{"adminGroup": "no such"}', 1, /must be the name of a group in \/etc\/group/],
  [
    "give-up above silence",
    '{"giveUpMs": 20000}',
    undefined,
    /^heartbeatMs is 3000, giveUpMs 20000, silenceMs 15000; each must be less than the next/,
  ],
  [
    "heartbeat and give-up the same",
    '{"heartbeatMs": 10000}',
    undefined,
    /^heartbeatMs is 10000, giveUpMs 10000, silenceMs 15000; /,
  ],
];

describe("a config file is refused for", () => {
  for (const [what, text, line, says] of WRONG) {
    test(what, () => {
      write(text);
      const error = errorOf(() => readConfig(path));
      assert.equal(error.line, line);
      const [place, ...reason] = error.message.split(": ");
      const where = line === undefined ? path : `${path}, line ${line}`;
      assert.equal(place, `Cannot use config file ${where}`);
      assert.match(reason.join(": "), says);
    });
  }
});

test("what a file leaves out has its default", () => {
  write('\uFEFF{ "graceMs": 7,\r\n  "onEnd": "drain" }\n');
  assert.deepEqual(readConfig(path), { ...DEFAULT_CONFIG, graceMs: 7, onEnd: "drain" });
  write("{}");
  assert.deepEqual(readConfig(path), DEFAULT_CONFIG);
});

test("a missing file means the defaults, unless somebody named it", () => {
  const missing = join(dir.path, "none.json");
  const reading = findConfig({ path: missing, isNamed: false });
  assert.deepEqual(reading, { config: DEFAULT_CONFIG, path: undefined });
  const error = errorOf(() => findConfig({ path: missing, isNamed: true }));
  assert.match(error.message, /: there is no such file$/);
});

test("the option wins over the variable, and both over the user's place", () => {
  const named = (name: string) => ({ path: `/${name}`, isNamed: true });
  assert.deepEqual(configPlace("/option", { SSHLOCK_CONFIG: "/variable" }), named("option"));
  assert.deepEqual(configPlace(undefined, { SSHLOCK_CONFIG: "/variable" }), named("variable"));
  const { isNamed } = configPlace(undefined, { SSHLOCK_CONFIG: "", XDG_CONFIG_HOME: "" });
  assert.equal(isNamed, false);
});

describe("a config file that others could have written is refused:", () => {
  before(() => write("{}"));

  for (const mode of [0o664, 0o646]) {
    test(`mode ${mode.toString(8)}`, () => {
      chmodSync(path, mode);
      const error = errorOf(() => readConfig(path));
      chmodSync(path, 0o644);
      assert.match(error.message, new RegExp(`has mode 0${mode.toString(8)}.*chmod go-w ${path}$`));
    });
  }

  test("a folder that others may write to, and one behind a symlink", () => {
    const open = join(dir.path, "open");
    mkdirSync(open);
    writeFileSync(join(open, "agent.json"), "{}", { mode: 0o644 });
    chmodSync(open, 0o777);
    symlinkSync(join(open, "agent.json"), join(dir.path, "link.json"));
    for (const file of [join(open, "agent.json"), join(dir.path, "link.json")]) {
      assert.match(errorOf(() => readConfig(file)).message, /its folder .*open has mode 0777/);
    }
    chmodSync(open, 0o1777);
    assert.deepEqual(readConfig(join(open, "agent.json")), DEFAULT_CONFIG);
  });

  test("another user's file", { skip: requires(root) }, () => {
    chownSync(path, 4711, 0);
    const error = errorOf(() => readConfig(path));
    chownSync(path, 0, 0);
    assert.match(error.message, /it belongs to uid 4711; it must be root's: chown 0 /);
  });

  test("what is no file", () => {
    assert.match(errorOf(() => readConfig(dir.path)).message, /: it is no regular file$/);
  });
});

test("the times of a session keep their share of its limit, and their order", () => {
  assert.deepEqual(timesFor(DEFAULT_CONFIG, 15_000), {
    heartbeatMs: 3_000,
    giveUpMs: 10_000,
    silenceMs: 15_000,
  });
  assert.deepEqual(timesFor(DEFAULT_CONFIG, 1_500), {
    heartbeatMs: 300,
    giveUpMs: 1_000,
    silenceMs: 1_500,
  });
  // As close as they may be configured, and as far apart.
  for (
    const config of [
      { ...DEFAULT_CONFIG, heartbeatMs: 3_599_998, giveUpMs: 3_599_999, silenceMs: 3_600_000 },
      { ...DEFAULT_CONFIG, heartbeatMs: 20, giveUpMs: 21, silenceMs: 3_600_000 },
    ]
  ) {
    for (const silenceMs of [200, 201, 1_000, 3_600_000]) {
      const times = timesFor(config, silenceMs);
      assert.ok(20 <= times.heartbeatMs && times.heartbeatMs < times.giveUpMs, `${silenceMs}`);
      assert.ok(times.giveUpMs < times.silenceMs, `${silenceMs}`);
    }
    assert.equal(timesFor(config, 0).silenceMs, 0);
  }
});

function write(text: string): void {
  writeFileSync(path, text, { mode: 0o644 });
}

function errorOf(read: () => unknown): ConfigError {
  try {
    read();
  } catch (error) {
    assert.ok(error instanceof ConfigError, `${error}`);
    return error;
  }
  assert.fail("it was taken");
}
