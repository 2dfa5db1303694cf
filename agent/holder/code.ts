/** One assembled instruction, as `objdump` shows it, with the reason why it is there. */
export interface ListingLine {
  /** Where the instruction starts, in bytes from the start of the file. */
  readonly offset: number;
  /** How many bytes it has. */
  readonly length: number;
  /** The instruction in objdump's own notation (Intel syntax on x86-64), single spaces. */
  readonly text: string;
  readonly comment: string;
}

/** A finished program: its machine code and the listing that a reader can hold against objdump. */
export interface Program {
  readonly bytes: Uint8Array;
  readonly listing: readonly ListingLine[];
}

/** An instruction as one encoder gives it: its bytes and the same thing in objdump's words. */
export interface Encoded {
  readonly bytes: readonly number[];
  readonly text: string;
}

interface Pending {
  readonly offset: number;
  readonly length: number;
  readonly comment: string;
  readonly encode: (addressOf: (label: string) => number) => Encoded;
}

/**
 * Collects instructions and labels, and encodes them once every label has its address.
 *
 * Addresses are offsets in the file: branches are relative, so the place in memory does not matter.
 */
export class Code {
  #origin: number;
  #end: number;
  #pending: Pending[] = [];
  #labels = new Map<string, number>();

  /** @param origin Offset of the first instruction in the file, in bytes. */
  constructor(origin: number) {
    this.#origin = origin;
    this.#end = origin;
  }

  /**
   * Names the place of the next instruction.
   *
   * @throws {Error} The name is in use.
   */
  label(name: string): void {
    if (this.#labels.has(name)) throw new Error(`Cannot place label "${name}": it is in use`);
    this.#labels.set(name, this.#end);
  }

  /** Appends an instruction that refers to no label. */
  add({ bytes, text }: Encoded, comment: string): void {
    this.#append(bytes.length, comment, () => ({ bytes, text }));
  }

  /**
   * Appends a branch of `length` bytes, encoded once all labels are known.
   *
   * @param encode Gets the address of the branch itself and the address of its target.
   */
  addBranch(
    length: number,
    target: string,
    encode: (from: number, to: number) => Encoded,
    comment: string,
  ): void {
    const from = this.#end;
    this.#append(length, comment, (addressOf) => encode(from, addressOf(target)));
  }

  /**
   * Encodes everything.
   *
   * @throws {Error} A branch goes to a label that was never placed, or its length is not the promised one.
   */
  finish(): Program {
    const bytes = new Uint8Array(this.#end - this.#origin);
    const listing = this.#pending.map(({ offset, length, comment, encode }) => {
      const encoded = encode((label) => this.#addressOf(label));
      if (encoded.bytes.length !== length) {
        throw new Error(`Cannot encode "${encoded.text}" in ${length} bytes`);
      }
      bytes.set(encoded.bytes, offset - this.#origin);
      return { offset, length, text: encoded.text, comment };
    });
    return { bytes, listing };
  }

  #append(length: number, comment: string, encode: Pending["encode"]): void {
    this.#pending.push({ offset: this.#end, length, comment, encode });
    this.#end += length;
  }

  #addressOf(label: string): number {
    const address = this.#labels.get(label);
    if (address === undefined) throw new Error(`Cannot find label "${label}"`);
    return address;
  }
}

/** The lowest `count` bytes of a number, least significant first; negative ones as two's complement. */
export function littleEndian(value: number, count: number): number[] {
  const bits = BigInt.asUintN(count * 8, BigInt(value));
  return Array.from({ length: count }, (_, i) => Number((bits >> BigInt(8 * i)) & 0xffn));
}

/** A number as objdump prints it; negative ones as 32-bit two's complement. */
export function hex(value: number): string {
  return "0x" + (value < 0 ? value >>> 0 : value).toString(16);
}

/**
 * Checks that an operand fits its field, so that no encoder can silently cut one off.
 *
 * @throws {RangeError} It does not.
 */
export function requireRange(value: number, lowest: number, highest: number): number {
  if (Number.isInteger(value) && value >= lowest && value <= highest) return value;
  throw new RangeError(`Cannot encode operand ${value}: not within ${lowest}..${highest}`);
}
