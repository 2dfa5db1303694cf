import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { CODE_OFFSET } from "../../../agent/holder/elf.ts";
import { type HolderArch, holderListing } from "../../../agent/holder/image.ts";
import { Workplace } from "./support.ts";

/** How each architecture is disassembled; the first objdump that knows it is taken. */
const OBJDUMP = {
  x64: {
    programs: ["x86_64-linux-gnu-objdump", "objdump"],
    options: ["-m", "i386:x86-64", "-M", "intel"],
  },
  arm64: { programs: ["aarch64-linux-gnu-objdump", "objdump"], options: ["-m", "aarch64"] },
} as const;

for (const arch of ["x64", "arm64"] as const) {
  test(`each instruction for ${arch} is what its listing says`, (t) => {
    using workplace = new Workplace();
    const shown = disassemble(arch, workplace.image(arch));
    if (shown === undefined) {
      return t.skip(`no objdump for ${arch} is installed (binutils, binutils-aarch64-linux-gnu)`);
    }
    const listed = holderListing(arch).map(({ offset, text }) => `${offset.toString(16)}: ${text}`);
    assert.ok(listed.length > 100);
    assert.deepEqual(shown, listed);
  });

  test(`each instruction for ${arch} has a comment`, () => {
    const uncommented = holderListing(arch).filter(({ comment }) => comment.trim() === "");
    assert.deepEqual(uncommented, []);
  });
}

/** Lines of `offset: instruction`, without bytes, alignment and objdump's own comments. */
function disassemble(arch: HolderArch, image: string): string[] | undefined {
  const { programs, options } = OBJDUMP[arch];
  const args = ["-D", "-w", "-b", "binary", ...options, `--start-address=${CODE_OFFSET}`, image];
  for (const program of programs) {
    const { status, stdout } = spawnSync(program, args, { encoding: "utf8" });
    if (status === 0) return stdout.split("\n").flatMap(normalise);
  }
  return undefined;
}

function normalise(line: string): string[] {
  const [, offset, text] = /^ *([0-9a-f]+):\t[0-9a-f ]+\t(.*)$/.exec(line) ?? [];
  if (offset === undefined || text === undefined) return [];
  return [`${offset}: ${text.replace(/\/\/.*/, "").replace(/\s+/g, " ").trim()}`];
}
