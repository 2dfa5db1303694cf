import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { Code } from "../../../agent/holder/code.ts";
import { encodeOrder, holderImage, ORDER, SPARE_ARGV0 } from "../../../agent/holder/image.ts";
import { isInstalled, order, Workplace } from "./support.ts";

const LONGEST_NAME = "n".repeat(100);

for (const [arch, machine] of [["x64", "X86-64"], ["arm64", "AArch64"]] as const) {
  test(`the image for ${arch} has less than 1024 bytes and is the same each time`, () => {
    const image = holderImage(arch);
    assert.ok(image.length > 200 && image.length < 1024, `${image.length} bytes`);
    assert.deepEqual(image, holderImage(arch));
  });

  test(`readelf accepts the image for ${arch}; no segment is writable and executable`, (t) => {
    if (!isInstalled("readelf")) return t.skip("readelf (binutils) is not installed");
    using workplace = new Workplace();
    const { status, stdout, stderr } = spawnSync(
      "readelf",
      ["--file-header", "--program-headers", "--wide", workplace.image(arch)],
      { encoding: "utf8" },
    );
    assert.equal(stderr, "");
    assert.equal(status, 0);
    assert.match(stdout, /EXEC \(Executable file\)/);
    assert.match(stdout, new RegExp(`Machine: .*${machine}`));
    assert.match(stdout, /LOAD .* R E 0x10000$/m);
    assert.match(stdout, /GNU_STACK .* RW /);
  });
}

test("a spare's argv[0] has room for the longest name and does not look like a lock", () => {
  assert.equal(SPARE_ARGV0.length, 122);
  assert.equal(`session-lock-${LONGEST_NAME}\0infinity\0`.length, SPARE_ARGV0.length + 1);
  assert.ok(!SPARE_ARGV0.includes("session-lock"));
});

test("encodeOrder() puts operation, flags and argv where the holder reads them", () => {
  const bytes = order({ name: "deploy", wait: true, tied: true });
  assert.equal(bytes.length, 125);
  assert.deepEqual([...bytes.subarray(0, 2)], [6, 3]);
  const argv = Buffer.from(bytes.subarray(ORDER.argvOffset)).toString();
  assert.equal(argv, "session-lock-deploy\0infinity\0".padEnd(123, "\0"));
  assert.deepEqual([...order({ shared: true }).subarray(0, 2)], [5, 0]);
});

test("encodeOrder() refuses a name that does not fit", () => {
  const others = { shared: false, wait: false, tied: false };
  assert.equal(encodeOrder({ name: LONGEST_NAME, ...others }).length, 125);
  for (const name of ["", LONGEST_NAME + "n", "a\0b"]) {
    assert.throws(() => encodeOrder({ name, ...others }), RangeError);
  }
});

test("the assembler refuses a label that is missing or placed twice", () => {
  const code = new Code(0);
  code.label("here");
  assert.throws(() => code.label("here"), /Cannot place label "here"/);
  code.addBranch(1, "nowhere", () => ({ bytes: [0], text: "" }), "");
  assert.throws(() => code.finish(), /Cannot find label "nowhere"/);
});
