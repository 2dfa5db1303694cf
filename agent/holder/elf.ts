import { littleEndian } from "./code.ts";

/** e_machine values of the two architectures. @see elf(5) */
export const ELF_MACHINE = { x64: 62, arm64: 183 } as const;

const FILE_HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;
const PROGRAM_HEADERS = 2;

/** Offset of the first instruction in the file, in bytes: right behind the headers. */
export const CODE_OFFSET = FILE_HEADER_BYTES + PROGRAM_HEADERS * PROGRAM_HEADER_BYTES;

/** Where the file lands in memory. Above mmap_min_addr and a multiple of every page size. */
const LOAD_ADDRESS = 0x40_0000;

/** The largest page size in use (aarch64 kernels may have 64 KiB). */
const SEGMENT_ALIGNMENT = 0x1_0000;

const PT_LOAD = 1;
const PT_GNU_STACK = 0x6474e551;
const PF_EXECUTE = 1;
const PF_WRITE = 2;
const PF_READ = 4;

/**
 * Wraps machine code into a static ELF64 executable that starts at its first byte.
 *
 * One read-only, executable segment maps the whole file; what must be written lives on the stack,
 * which PT_GNU_STACK keeps from being executable. No sections, no interpreter, no relocations.
 *
 * @see elf(5)
 */
export function elfExecutable(machine: number, code: Uint8Array): Uint8Array {
  const size = CODE_OFFSET + code.length;
  return Uint8Array.from([
    ...fileHeader(machine),
    ...programHeader(PT_LOAD, PF_READ | PF_EXECUTE, LOAD_ADDRESS, size, SEGMENT_ALIGNMENT),
    ...programHeader(PT_GNU_STACK, PF_READ | PF_WRITE, 0, 0, 16),
    ...code,
  ]);
}

function fileHeader(machine: number): number[] {
  const ELFCLASS64 = 2, ELFDATA2LSB = 1, EV_CURRENT = 1, ET_EXEC = 2;
  return [
    ...[0x7f, 0x45, 0x4c, 0x46, ELFCLASS64, ELFDATA2LSB, EV_CURRENT], // "\x7fELF"
    ...littleEndian(0, 9), // ABI: System V; padding
    ...littleEndian(ET_EXEC, 2),
    ...littleEndian(machine, 2),
    ...littleEndian(EV_CURRENT, 4),
    ...littleEndian(LOAD_ADDRESS + CODE_OFFSET, 8), // entry
    ...littleEndian(FILE_HEADER_BYTES, 8), // program headers follow at once
    ...littleEndian(0, 8), // no section headers
    ...littleEndian(0, 4), // flags
    ...littleEndian(FILE_HEADER_BYTES, 2),
    ...littleEndian(PROGRAM_HEADER_BYTES, 2),
    ...littleEndian(PROGRAM_HEADERS, 2),
    ...littleEndian(0, 6), // size, number and string table of sections
  ];
}

function programHeader(
  type: number,
  flags: number,
  address: number,
  size: number,
  alignment: number,
): number[] {
  return [
    ...littleEndian(type, 4),
    ...littleEndian(flags, 4),
    ...littleEndian(0, 8), // from the start of the file
    ...littleEndian(address, 8), // virtual
    ...littleEndian(address, 8), // physical, unused
    ...littleEndian(size, 8), // in the file
    ...littleEndian(size, 8), // in memory
    ...littleEndian(alignment, 8),
  ];
}
