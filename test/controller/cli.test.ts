import assert from "node:assert/strict";
import test from "node:test";

import { parseDestination } from "../../controller/cli/destination.ts";
import { parseDuration } from "../../controller/cli/duration.ts";
import { cutAtCommand } from "../../controller/cli/operands.ts";

const VALUES = new Set(["-i", "--identity", "-w", "--wait"]);
const cut = (line: string) => cutAtCommand(line.split(" "), VALUES, 2);

test("options of sshlock run end at the command", () => {
  assert.deepEqual(cut("db1 deploy -- ls -l"), { own: ["db1", "deploy"], command: ["ls", "-l"] });
  assert.deepEqual(cut("db1 deploy ls -l -i x"), {
    own: ["db1", "deploy"],
    command: ["ls", "-l", "-i", "x"],
  });
  assert.deepEqual(cut("-i key -n db1 --wait 3s deploy -w 2s -- -x"), {
    own: ["-i", "key", "-n", "db1", "--wait", "3s", "deploy", "-w", "2s"],
    command: ["-x"],
  });
  assert.deepEqual(cut("--wait=3s -ikey db1 deploy true"), {
    own: ["--wait=3s", "-ikey", "db1", "deploy"],
    command: ["true"],
  });
  assert.deepEqual(cut("db1 deploy -- -- x"), { own: ["db1", "deploy"], command: ["--", "x"] });
  assert.deepEqual(cut("db1 deploy"), { own: ["db1", "deploy"], command: [] });
  assert.deepEqual(cut("-w"), { own: ["-w"], command: [] });
});

test("durations are read with their units, and nothing else is", () => {
  const read = (text: string) => parseDuration(text, "-w");
  assert.deepEqual(["500ms", "30s", "2m", "1h", "1d", "5", "0", "1.5s"].map(read), [
    ...[500, 30_000, 120_000, 3_600_000, 86_400_000, 5_000, 0, 1_500],
  ]);
  for (const text of ["", "s", "-1s", "1 s", "1w", "1e3", "25d", "NaN", "Infinity"]) {
    assert.throws(() => read(text), { name: "UsageError", message: /Cannot read -w/ });
  }
});

test("a destination is [user@]host[:port], with brackets around IPv6", () => {
  const read = (text: string) => Object.values(parseDestination(text));
  assert.deepEqual(read("db1"), [undefined, "db1", undefined]);
  assert.deepEqual(read("root@db1:2222"), ["root", "db1", 2222]);
  assert.deepEqual(read("a@b@db1"), ["a@b", "db1", undefined]);
  assert.deepEqual(read("root@[2001:db8::1]:22"), ["root", "2001:db8::1", 22]);
  assert.deepEqual(read("[::1]"), [undefined, "::1", undefined]);
  assert.deepEqual(read("2001:db8::1"), [undefined, "2001:db8::1", undefined]);
  for (
    const text of ["", "@db1", "db1:", "db1:0", "db1:65536", "db1:x", "-oProxyCommand=x", "root@-x"]
  ) {
    assert.throws(() => parseDestination(text), { name: "UsageError" });
  }
});
