import { Code, hex, littleEndian, type Program, requireRange } from "./code.ts";

/** Condition codes of `b.cond`. */
const CONDITION = { eq: 0, ne: 1, le: 13 } as const;

/** Register 31: the stack pointer or the zero register, as the instruction wants it. */
const SP_OR_ZERO = 31;

/** Bytes of every instruction. */
const WORD = 4;

/**
 * The few aarch64 instructions that the holder is made of, one method a form.
 *
 * Registers are given by number: `w0` is the lower half of `x0`. Memory operands are
 * `[sp + offset]`. Each method takes the reason for the instruction last.
 *
 * @see Arm Architecture Reference Manual for A-profile, chapter C6
 */
export class Aarch64Assembler {
  #code: Code;

  /** @param origin Offset of the first instruction in the file, in bytes. */
  constructor(origin: number) {
    this.#code = new Code(origin);
  }

  label(name: string): void {
    this.#code.label(name);
  }

  finish(): Program {
    return this.#code.finish();
  }

  /** `mov wN, #imm16` (MOVZ) */
  set(to: number, value: number, why: string): void {
    requireRange(value, 0, 0xffff);
    this.#word(0x52800000 | (value << 5) | to, `mov w${to}, #${hex(value)}`, why);
  }

  /** `movk wN, #imm16, lsl #16` (MOVK): the upper half; `set` makes the lower one. */
  setUpper(to: number, value: number, why: string): void {
    requireRange(value, 0, 0xffff);
    this.#word(0x72a00000 | (value << 5) | to, `movk w${to}, #${hex(value)}, lsl #16`, why);
  }

  /** `mov xN, #-1` (MOVN of 0) */
  setAllOnes64(to: number, why: string): void {
    this.#word(0x92800000 | to, `mov x${to}, #0xffffffffffffffff`, why);
  }

  /** `mov wN, #-1` (MOVN of 0) */
  setAllOnes(to: number, why: string): void {
    this.#word(0x12800000 | to, `mov w${to}, #0xffffffff`, why);
  }

  /** `mov xN, xM` (ORR with the zero register) */
  copy64(to: number, from: number, why: string): void {
    this.#word(0xaa0003e0 | (from << 16) | to, `mov x${to}, x${from}`, why);
  }

  /** `mov wN, wM` (ORR with the zero register) */
  copy32(to: number, from: number, why: string): void {
    this.#word(0x2a0003e0 | (from << 16) | to, `mov w${to}, w${from}`, why);
  }

  /** `add wN, wN, #imm12` */
  add(register: number, value: number, why: string): void {
    const operands = imm12(value) | (register << 5) | register;
    this.#word(0x11000000 | operands, `add w${register}, w${register}, #${hex(value)}`, why);
  }

  /** `and wN, wN, #0x3`: a logical immediate of two ones. */
  andThree(register: number, why: string): void {
    const twoOnes = 1 << 10;
    const operands = twoOnes | (register << 5) | register;
    this.#word(0x12000000 | operands, `and w${register}, w${register}, #0x3`, why);
  }

  /** `sub sp, sp, #imm12` */
  subtractFromStack(value: number, why: string): void {
    const operands = imm12(value) | (SP_OR_ZERO << 5) | SP_OR_ZERO;
    this.#word(0xd1000000 | operands, `sub sp, sp, #${hex(value)}`, why);
  }

  /** `cmp wN, #imm12`, or `cmn wN, #-imm12` for a negative value */
  compare(register: number, value: number, why: string): void {
    const [opcode, mnemonic] = value < 0 ? [0x31000000, "cmn"] : [0x71000000, "cmp"];
    const operands = imm12(Math.abs(value)) | (register << 5) | SP_OR_ZERO;
    this.#word(opcode | operands, `${mnemonic} w${register}, #${hex(Math.abs(value))}`, why);
  }

  /** `add xN, sp, #imm12`; objdump calls it `mov` for 0 */
  address(to: number, offset: number, why: string): void {
    const text = offset === 0 ? `mov x${to}, sp` : `add x${to}, sp, #${hex(offset)}`;
    this.#word(0x91000000 | imm12(offset) | (SP_OR_ZERO << 5) | to, text, why);
  }

  /** `ldr xN, [sp, #offset]` */
  load64(to: number, offset: number, why: string): void {
    this.#word(0xf9400000 | framed(offset, 8) | to, `ldr x${to}, ${frameText(offset)}`, why);
  }

  /** `ldr wN, [sp, #offset]` */
  load32(to: number, offset: number, why: string): void {
    this.#word(0xb9400000 | framed(offset, 4) | to, `ldr w${to}, ${frameText(offset)}`, why);
  }

  /** `ldrb wN, [sp, #offset]` */
  load8(to: number, offset: number, why: string): void {
    this.#word(0x39400000 | framed(offset, 1) | to, `ldrb w${to}, ${frameText(offset)}`, why);
  }

  /** `str xN, [sp, #offset]` */
  store64(offset: number, from: number, why: string): void {
    this.#word(0xf9000000 | framed(offset, 8) | from, `str x${from}, ${frameText(offset)}`, why);
  }

  /** `str xzr, [sp, #offset]` */
  storeZero64(offset: number, why: string): void {
    const text = `str xzr, ${frameText(offset)}`;
    this.#word(0xf9000000 | framed(offset, 8) | SP_OR_ZERO, text, why);
  }

  /** `strb wN, [sp, #offset]` */
  store8(offset: number, from: number, why: string): void {
    this.#word(0x39000000 | framed(offset, 1) | from, `strb w${from}, ${frameText(offset)}`, why);
  }

  /** `svc #0`: number in w8, arguments in x0 to x4; keeps all registers but x0. */
  syscall(why: string): void {
    this.#word(0xd4000001, "svc #0x0", why);
  }

  /** `ret` */
  return(why: string): void {
    this.#word(0xd65f03c0, "ret", why);
  }

  /** `b.eq`, `b.ne` or `b.le` (signed) to a label */
  branchIf(condition: keyof typeof CONDITION, target: string, why: string): void {
    const encode = (distance: number) =>
      0x54000000 | (field(distance, 19) << 5) | CONDITION[condition];
    this.#branch(`b.${condition}`, target, encode, why);
  }

  /** `cbz wN` to a label */
  branchIfZero(register: number, target: string, why: string): void {
    const encode = (distance: number) => 0x34000000 | (field(distance, 19) << 5) | register;
    this.#branch(`cbz w${register},`, target, encode, why);
  }

  /** `cbnz wN` to a label */
  branchIfNotZero(register: number, target: string, why: string): void {
    const encode = (distance: number) => 0x35000000 | (field(distance, 19) << 5) | register;
    this.#branch(`cbnz w${register},`, target, encode, why);
  }

  /** `tbz wN, #bit` to a label: branches if that bit is 0. `mask` has that one bit set. */
  branchIfBitClear(register: number, mask: number, target: string, why: string): void {
    const bit = requireRange(Math.log2(mask), 0, 31);
    const operands = (bit << 19) | register;
    const encode = (distance: number) => 0x36000000 | (field(distance, 14) << 5) | operands;
    this.#branch(`tbz w${register}, #${bit},`, target, encode, why);
  }

  /** `b` to a label */
  branch(target: string, why: string): void {
    this.#branch("b", target, (distance) => 0x14000000 | field(distance, 26), why);
  }

  /** `bl` to a label: a call, its return address in x30 */
  call(target: string, why: string): void {
    this.#branch("bl", target, (distance) => 0x94000000 | field(distance, 26), why);
  }

  #word(word: number, text: string, why: string): void {
    this.#code.add({ bytes: littleEndian(word, WORD), text }, why);
  }

  /** Distances count in instructions, from the branch itself. */
  #branch(
    mnemonic: string,
    target: string,
    encode: (distance: number) => number,
    why: string,
  ): void {
    this.#code.addBranch(WORD, target, (from, to) => ({
      bytes: littleEndian(encode((to - from) / WORD), WORD),
      text: `${mnemonic} ${hex(to)}`,
    }), why);
  }
}

/** An unsigned 12-bit immediate in its place. */
function imm12(value: number): number {
  return requireRange(value, 0, 0xfff) << 10;
}

/** `[sp, #offset]` for an access of `size` bytes: the offset counts in units of the size. */
function framed(offset: number, size: number): number {
  return imm12(offset / size) | (SP_OR_ZERO << 5);
}

function frameText(offset: number): string {
  return offset === 0 ? "[sp]" : `[sp, #${offset}]`;
}

/** A signed distance cut to its field. */
function field(distance: number, bits: number): number {
  const half = 2 ** (bits - 1);
  return requireRange(distance, -half, half - 1) & (2 ** bits - 1);
}
