/**
 * Reads the text of a config file: one JSON object, its values numbers or text, each with its line.
 *
 * The runtimes' own JSON.parse says where an error is in words of its own, or not at all, and the last of
 * two equal keys would win without a word.
 *
 * @module
 */

/** A value of the file and the line that it is on, counted from 1. */
export interface ConfigEntry {
  /** The value. */
  value: string | number | boolean | null;
  /** The line. */
  line: number;
}

/** A text that is no JSON object of numbers and text. */
export class ConfigTextError extends Error {
  override name = "ConfigTextError";
  /** Line of the first character that does not fit, counted from 1. */
  readonly line: number;

  /**
   * @param line Where.
   * @param message What is there, and what would be right.
   */
  constructor(line: number, message: string) {
    super(message);
    this.line = line;
  }
}

/**
 * Reads a config file's text.
 *
 * @param text The text.
 * @returns Its entries by key, in the order of the file.
 * @throws {ConfigTextError} It is not JSON, no object, or has a key twice or a value that is a list or object.
 * @see RFC 8259
 */
export function parseConfigText(text: string): Map<string, ConfigEntry> {
  const tokens = new Tokens(text.replace(/^\uFEFF/, ""));
  const entries = new Map<string, ConfigEntry>();
  tokens.expect("{", 'a config file is one JSON object: it starts with "{"');
  if (tokens.take("}")) return ended(tokens, entries);
  do {
    if (entries.size > 0 && tokens.isAt("}")) {
      tokens.fail("take out the comma after the last value");
    }
    const { line } = tokens;
    const key = tokens.readKey();
    tokens.expect(":", `a colon is due after ${JSON.stringify(key)}`);
    if (entries.has(key)) {
      throw new ConfigTextError(line, `key "${key}" is there twice; keep one of them`);
    }
    entries.set(key, { value: tokens.readValue(key), line });
  } while (tokens.take(","));
  tokens.expect("}", 'a comma and the next key, or "}", is due after a value');
  return ended(tokens, entries);
}

function ended(tokens: Tokens, entries: Map<string, ConfigEntry>): Map<string, ConfigEntry> {
  if (!tokens.isAtEnd) tokens.fail('nothing may follow the last "}"');
  return entries;
}

const SPACE = /[ \t\r\n]*/y;
// deno-lint-ignore no-control-regex
const TEXT = /"(?:[^"\\\u0000-\u001F]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*"/y;
const SCALAR = /(?:-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)(?![\w.+-])/y;
const SEEN = /"[^"\n]*"?|[\w.+-]+|\/[/*]|./y;

class Tokens {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
    this.#skipSpace();
  }

  get line(): number {
    return this.#text.slice(0, this.#at).split("\n").length;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#text.length;
  }

  isAt(character: string): boolean {
    return this.#text[this.#at] === character;
  }

  take(character: string): boolean {
    if (!this.isAt(character)) return false;
    this.#at++;
    this.#skipSpace();
    return true;
  }

  expect(character: string, rule: string): void {
    if (!this.take(character)) this.fail(rule);
  }

  readKey(): string {
    const text = this.#match(TEXT) ?? this.fail('a key in double quotes is due, as in "graceMs"');
    return JSON.parse(text) as string;
  }

  readValue(key: string): ConfigEntry["value"] {
    if (this.isAt("{") || this.isAt("[")) {
      this.fail(`the value of "${key}" must be a number or text, neither list nor object`);
    }
    const rule = `the value of "${key}" must be a number, or text in double quotes`;
    const text = this.#match(TEXT) ?? this.#match(SCALAR) ?? this.fail(rule);
    return JSON.parse(text) as ConfigEntry["value"];
  }

  /** Says what is here, and the rule that it breaks. */
  fail(rule: string): never {
    const seen = this.#peek(SEEN);
    if (seen === "//" || seen === "/*" || seen === "#") {
      throw new ConfigTextError(this.line, "JSON has no comments; take it out");
    }
    const found = this.isAtEnd ? "the file ends" : `there is ${JSON.stringify(seen)}`;
    throw new ConfigTextError(this.line, `${found}; ${rule}`);
  }

  #match(pattern: RegExp): string | undefined {
    const text = this.#peek(pattern);
    if (text === undefined) return undefined;
    this.#at += text.length;
    this.#skipSpace();
    return text;
  }

  #peek(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    return pattern.exec(this.#text)?.[0];
  }

  #skipSpace(): void {
    this.#at += this.#peek(SPACE)!.length;
  }
}
