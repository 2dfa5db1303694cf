import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { builtHolder } from "../support/agent_process.ts";

const flockNumber = 73;
const syscall = [0x0f, 0x05];
/** xor eax, eax: the answer of a flock(2) that has succeeded. */
const succeed = [0x31, 0xc0];
/** How far behind the number its syscall can be: the arguments are loaded in between. */
const reach = 24;

/**
 * Writes a copy of the built x86-64 holder whose flock(2) calls are replaced by their success.
 *
 * @returns The path of the copy.
 * @throws {Error} No such call was found, so the copy would prove nothing.
 */
export async function sabotageHolder(dir: string): Promise<string> {
  const image = await readFile(builtHolder());
  let replaced = 0;
  for (let at = 0; at < image.length; at++) {
    if (!loadsFlockNumber(image, at)) continue;
    const call = image.indexOf(Buffer.from(syscall), at);
    if (call < 0 || call > at + reach) continue;
    image.set(succeed, call);
    replaced++;
  }
  if (replaced === 0) throw new Error(`Cannot find a flock call in ${builtHolder()}`);
  const path = join(dir, "sabotaged-holder");
  await writeFile(path, image, { mode: 0o755 });
  return path;
}

/** mov eax, imm32 / mov al, imm8 / push imm8 (then pop rax). */
function loadsFlockNumber(image: Buffer, at: number): boolean {
  const next = image[at + 1];
  if (next !== flockNumber) return false;
  if (image[at] === 0xb8) return image.readUInt32LE(at + 1) === flockNumber;
  return image[at] === 0xb0 || image[at] === 0x6a;
}
