import { Code, type Encoded, hex, littleEndian, type Program, requireRange } from "./code.ts";

/** Register numbers of the 64-bit registers that the holder uses. */
const REGISTER64 = { rax: 0, rcx: 1, rdx: 2, rbx: 3, rsp: 4, rbp: 5, rsi: 6, rdi: 7 } as const;

/** Their lower halves. Writing one clears the upper half. */
const REGISTER32 = { eax: 0, ecx: 1, edx: 2, ebx: 3, esp: 4, ebp: 5, esi: 6, edi: 7 } as const;

/** Second opcode byte of the conditional near jumps. */
const JUMP = { je: 0x84, jne: 0x85, jle: 0x8e } as const;

type Register64 = keyof typeof REGISTER64;
type Register32 = keyof typeof REGISTER32;

/** REX prefix with W set: 64-bit operands. */
const REX_W = 0x48;

/**
 * The few x86-64 instructions that the holder is made of, one method a form.
 *
 * Memory operands are `[rbp + offset]` with a one-byte offset (0..127), but for `loadFromStack`.
 * Each method takes the reason for the instruction last.
 *
 * @see Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2
 */
export class X86Assembler {
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

  /** `mov r32, imm32` */
  set(to: Register32, value: number, why: string): void {
    const bytes = [0xb8 + REGISTER32[to], ...littleEndian(value, 4)];
    this.#code.add({ bytes, text: `mov ${to},${hex(value)}` }, why);
  }

  /** `xor r32, r32` */
  clear(register: Register32, why: string): void {
    const bytes = [0x31, direct(REGISTER32[register], REGISTER32[register])];
    this.#code.add({ bytes, text: `xor ${register},${register}` }, why);
  }

  /** `xor r10d, r10d`: the one register that needs a prefix for its number */
  clearR10(why: string): void {
    this.#code.add({ bytes: [0x45, 0x31, 0xd2], text: "xor r10d,r10d" }, why);
  }

  /** `mov r64, r64` */
  copy64(to: Register64, from: Register64, why: string): void {
    const bytes = [REX_W, 0x89, direct(REGISTER64[from], REGISTER64[to])];
    this.#code.add({ bytes, text: `mov ${to},${from}` }, why);
  }

  /** `sub r64, imm32` */
  subtract64(register: Register64, value: number, why: string): void {
    const bytes = [REX_W, 0x81, direct(5, REGISTER64[register]), ...littleEndian(value, 4)];
    this.#code.add({ bytes, text: `sub ${register},${hex(value)}` }, why);
  }

  /** `inc r32` */
  increment(register: Register32, why: string): void {
    const bytes = [0xff, direct(0, REGISTER32[register])];
    this.#code.add({ bytes, text: `inc ${register}` }, why);
  }

  /** `and r32, imm8` */
  and(register: Register32, mask: number, why: string): void {
    const bytes = [0x83, direct(4, REGISTER32[register]), requireRange(mask, 0, 127)];
    this.#code.add({ bytes, text: `and ${register},${hex(mask)}` }, why);
  }

  /** `test r32, r32` */
  test(register: Register32, why: string): void {
    const bytes = [0x85, direct(REGISTER32[register], REGISTER32[register])];
    this.#code.add({ bytes, text: `test ${register},${register}` }, why);
  }

  /** `cmp r32, imm8`, the immediate sign-extended */
  compare(register: Register32, value: number, why: string): void {
    requireRange(value, -128, 127);
    const bytes = [0x83, direct(7, REGISTER32[register]), ...littleEndian(value, 1)];
    this.#code.add({ bytes, text: `cmp ${register},${hex(value)}` }, why);
  }

  /** `cmp r32, imm32` */
  compareWide(register: Register32, value: number, why: string): void {
    const bytes = [0x81, direct(7, REGISTER32[register]), ...littleEndian(value, 4)];
    this.#code.add({ bytes, text: `cmp ${register},${hex(value)}` }, why);
  }

  /** `mov r64, [rsp + offset]` */
  loadFromStack(to: Register64, offset: number, why: string): void {
    const base = 0x24; // SIB: rsp, no index
    const modrm = 0x44 | (REGISTER64[to] << 3);
    const bytes = [REX_W, 0x8b, modrm, base, requireRange(offset, 0, 127)];
    this.#code.add({ bytes, text: `mov ${to},QWORD PTR [rsp+${hex(offset)}]` }, why);
  }

  /** `lea r64, [rbp + offset]` */
  address(to: Register64, offset: number, why: string): void {
    const bytes = [REX_W, 0x8d, ...framed(REGISTER64[to], offset)];
    this.#code.add({ bytes, text: `lea ${to},${frameText(offset)}` }, why);
  }

  /** `mov r32, DWORD PTR [rbp + offset]` */
  load32(to: Register32, offset: number, why: string): void {
    const bytes = [0x8b, ...framed(REGISTER32[to], offset)];
    this.#code.add({ bytes, text: `mov ${to},DWORD PTR ${frameText(offset)}` }, why);
  }

  /** `movzx r32, BYTE PTR [rbp + offset]` */
  load8(to: Register32, offset: number, why: string): void {
    const bytes = [0x0f, 0xb6, ...framed(REGISTER32[to], offset)];
    this.#code.add({ bytes, text: `movzx ${to},BYTE PTR ${frameText(offset)}` }, why);
  }

  /** `mov QWORD PTR [rbp + offset], r64` */
  store64(offset: number, from: Register64, why: string): void {
    const bytes = [REX_W, 0x89, ...framed(REGISTER64[from], offset)];
    this.#code.add({ bytes, text: `mov QWORD PTR ${frameText(offset)},${from}` }, why);
  }

  /** `mov QWORD PTR [rbp + offset], imm32`, the immediate sign-extended */
  store64Value(offset: number, value: number, why: string): void {
    const bytes = [REX_W, 0xc7, ...framed(0, offset), ...littleEndian(value, 4)];
    this.#code.add({ bytes, text: `mov QWORD PTR ${frameText(offset)},${hex(value)}` }, why);
  }

  /** `mov BYTE PTR [rbp + offset], imm8` */
  store8Value(offset: number, value: number, why: string): void {
    const bytes = [0xc6, ...framed(0, offset), requireRange(value, 0, 255)];
    this.#code.add({ bytes, text: `mov BYTE PTR ${frameText(offset)},${hex(value)}` }, why);
  }

  /** `cmp QWORD PTR [rbp + offset], imm8` */
  compareStored64(offset: number, value: number, why: string): void {
    const bytes = [REX_W, 0x83, ...framed(7, offset), requireRange(value, 0, 127)];
    this.#code.add({ bytes, text: `cmp QWORD PTR ${frameText(offset)},${hex(value)}` }, why);
  }

  /** `cmp DWORD PTR [rbp + offset], imm8` */
  compareStored32(offset: number, value: number, why: string): void {
    const bytes = [0x83, ...framed(7, offset), requireRange(value, 0, 127)];
    this.#code.add({ bytes, text: `cmp DWORD PTR ${frameText(offset)},${hex(value)}` }, why);
  }

  /** `test BYTE PTR [rbp + offset], imm8` */
  testStored8(offset: number, mask: number, why: string): void {
    const bytes = [0xf6, ...framed(0, offset), requireRange(mask, 0, 255)];
    this.#code.add({ bytes, text: `test BYTE PTR ${frameText(offset)},${hex(mask)}` }, why);
  }

  /** `syscall`: number in eax, arguments in rdi, rsi, rdx, r10, r8; keeps all but rax, rcx, r11. */
  syscall(why: string): void {
    this.#code.add({ bytes: [0x0f, 0x05], text: "syscall" }, why);
  }

  /** `ret` */
  return(why: string): void {
    this.#code.add({ bytes: [0xc3], text: "ret" }, why);
  }

  /** `je`, `jne` or `jle` (signed) to a label. */
  jumpIf(condition: keyof typeof JUMP, target: string, why: string): void {
    this.#branch([0x0f, JUMP[condition]], condition, target, why);
  }

  /** `jmp` to a label */
  jump(target: string, why: string): void {
    this.#branch([0xe9], "jmp", target, why);
  }

  /** `call` of a label */
  call(target: string, why: string): void {
    this.#branch([0xe8], "call", target, why);
  }

  /** All branches have 4-byte distances, counted from the end of the branch. */
  #branch(opcode: readonly number[], mnemonic: string, target: string, why: string): void {
    const length = opcode.length + 4;
    const encode = (from: number, to: number): Encoded => ({
      bytes: [...opcode, ...littleEndian(to - (from + length), 4)],
      text: `${mnemonic} ${hex(to)}`,
    });
    this.#code.addBranch(length, target, encode, why);
  }
}

/** ModRM byte of two registers (or an opcode extension and a register). */
function direct(reg: number, rm: number): number {
  return 0xc0 | (reg << 3) | rm;
}

/** ModRM byte and offset of `[rbp + offset]`. */
function framed(reg: number, offset: number): number[] {
  return [0x45 | (reg << 3), requireRange(offset, 0, 127)];
}

function frameText(offset: number): string {
  return `[rbp+${hex(offset)}]`;
}
