import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { PARTS } from "./parts.ts";
import { readSoakArguments, soakUsage, SoakUsageError } from "./soak_arguments.ts";

describe("the soak", () => {
  test("runs all parts unless told, and those that are named in their own order", () => {
    const order = readSoakArguments([]);
    assert.deepEqual(order, { kind: "run", parts: PARTS, historyArgs: [] });
    assert.deepEqual(namesOf(["crash", "model", "crash"]), ["model", "crash"]);
  });

  test("hands --minutes and --seed to the history", () => {
    const order = readSoakArguments(["history", "--minutes", "0.5", "--seed=7"]);
    assert.ok(order.kind === "run");
    assert.deepEqual(order.historyArgs, ["--minutes", "0.5", "--seed", "7"]);
  });

  const bad = [
    ["histories"],
    ["--hours", "1"],
    ["--minutes", "0"],
    ["--minutes", "long"],
    ["--minutes"],
    ["--seed", "-1"],
    ["--seed", "4294967296"],
    ["model", "--minutes", "1"],
  ];
  for (const args of bad) {
    test(`refuses ${args.join(" ")}`, () => {
      assert.throws(() => readSoakArguments(args), SoakUsageError);
    });
  }

  test("names each part in its help and in docs/testing.md", () => {
    assert.deepEqual(readSoakArguments(["model", "--help"]), { kind: "help" });
    const docs = readFileSync("docs/testing.md", "utf8");
    for (const { name, what } of PARTS) {
      assert.match(soakUsage(), new RegExp(`^  ${name} +${what}$`, "m"));
      assert.match(docs, new RegExp(`^\\| \`${name}\` +\\|`, "m"));
    }
  });

  test("has files for its patterns, which read what they are told", () => {
    const files = readdirSync("test", { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts") && !file.startsWith("soak/"));
    for (const { patterns, env } of PARTS.flatMap(({ runs }) => runs)) {
      const found = files.filter((file) => patterns.some((pattern) => RegExp(pattern).test(file)));
      assert.ok(found.some((file) => file.endsWith(".test.ts")), `${patterns}`);
      const source = found.map((file) => readFileSync(join("test", file), "utf8")).join("\n");
      for (const name of Object.keys(env)) assert.ok(source.includes(name), `${patterns}: ${name}`);
    }
  });
});

function namesOf(args: string[]): string[] {
  const order = readSoakArguments(args);
  return order.kind === "run" ? order.parts.map(({ name }) => name) : [];
}
