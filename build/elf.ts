import { closeSync, openSync, readSync } from "node:fs";

/** What an ELF executable needs to run. */
export type ElfKind = {
  /** Its instruction set, as Node names it; `other` for the rest. */
  readonly arch: "x64" | "arm64" | "other";
  /** The dynamic loader that it asks for; `undefined` for a static one. */
  readonly interpreter: string | undefined;
};

const PT_INTERP = 3;
const MACHINES: Record<number, ElfKind["arch"]> = { 62: "x64", 183: "arm64" };

/**
 * Reads the kind of a 64-bit little-endian ELF executable.
 *
 * @throws {TypeError} The file is no such executable.
 * @see elf(5)
 */
export function readElfKind(path: string): ElfKind {
  const fd = openSync(path, "r");
  try {
    const header = readAt(fd, 0, 64);
    if (header.toString("latin1", 0, 6) !== "\x7fELF\x02\x01") {
      throw new TypeError(`Cannot read ${path}: no 64-bit little-endian ELF file`);
    }
    const arch = MACHINES[header.readUInt16LE(18)] ?? "other";
    return { arch, interpreter: readInterpreter(fd, header) };
  } finally {
    closeSync(fd);
  }
}

function readInterpreter(fd: number, header: Buffer): string | undefined {
  const tableOffset = Number(header.readBigUInt64LE(32));
  const entryBytes = header.readUInt16LE(54);
  for (let entry = 0; entry < header.readUInt16LE(56); entry++) {
    const segment = readAt(fd, tableOffset + entry * entryBytes, entryBytes);
    if (segment.readUInt32LE(0) !== PT_INTERP) continue;
    const offset = Number(segment.readBigUInt64LE(8));
    const bytes = Number(segment.readBigUInt64LE(32));
    return readAt(fd, offset, bytes).toString("latin1").replace(/\0.*$/, "");
  }
  return undefined;
}

function readAt(fd: number, offset: number, bytes: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  readSync(fd, buffer, 0, bytes, offset);
  return buffer;
}
