/**
 * Remote commands as data: every value becomes exactly one word of the host's shell.
 *
 * The host's login shell reads the command, so it has to be of the POSIX kind (sh, dash, bash, ksh,
 * zsh, busybox); fish and csh read quotes differently.
 *
 * @module
 */

// No `=` at the start (zsh expands =cmd), no `~`, no braces, no glob.
const NEEDS_NO_QUOTES = /^[A-Za-z0-9_/:.,@%+-][A-Za-z0-9_/:.,@%+=-]*$/;

/** What stands for a secret in errors and events. */
const MASK = "'***'";

/** A value that a command needs and that no error, event or log may show. */
export class Secret {
  readonly #value: string;

  /** @param value The secret. */
  constructor(value: string) {
    this.#value = value;
  }

  /** The value, for the one place that sends it. */
  reveal(): string {
    return this.#value;
  }

  /** The mask. */
  toString(): string {
    return MASK;
  }

  /** The mask. */
  toJSON(): string {
    return MASK;
  }
}

/** A value in a command: one word, or one word for each element of an array. */
export type CommandValue =
  | string
  | number
  | bigint
  | Secret
  | readonly (string | number | bigint | Secret)[];

/** A command for the host's shell, and the same as it may be shown. */
export class Command {
  readonly #text: string;
  /** The command with its secrets masked. */
  readonly shown: string;

  /**
   * @param text What the host's shell is to read.
   * @param shown The same without secrets; default: the same.
   */
  constructor(text: string, shown: string = text) {
    if (text.includes("\0")) throw new TypeError("Cannot use command: it contains a NUL character");
    this.#text = text;
    this.shown = shown;
  }

  /** What the host's shell is to read, secrets included. */
  reveal(): string {
    return this.#text;
  }

  /** The command with its secrets masked. */
  toString(): string {
    return this.shown;
  }
}

/**
 * One word of a POSIX shell that stands for exactly `value`.
 *
 * @param value The text; an empty one becomes `''`.
 * @throws {TypeError} It contains a NUL character, which no argument can.
 * @example
 * ```ts
 * quote("it's"); // 'it'\''s'
 * ```
 * @see sh(1), section Quoting
 */
export function quote(value: string | number | bigint): string {
  const text = String(value);
  if (text.includes("\0")) throw new TypeError("Cannot quote value: it contains a NUL character");
  if (NEEDS_NO_QUOTES.test(text)) return text;
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/**
 * Marks a value of a command as secret: the host gets it, errors and events show `'***'`.
 *
 * Other users of the host can see it in the process list while the command runs: standard input is
 * the better way for a password.
 *
 * @param value The secret.
 */
export function secret(value: string): Secret {
  return new Secret(value);
}

/**
 * A command as a template: what stands between the values is shell, each value is one word.
 *
 * @param strings The shell between the values.
 * @param values One word each; an array becomes one word for each of its elements.
 * @example
 * ```ts
 * sh`tar -cf ${archive} ${files} && mv ${archive} ${target}`;
 * ```
 */
export function sh(strings: TemplateStringsArray, ...values: CommandValue[]): Command {
  const assemble = (word: (value: string | number | bigint | Secret) => string) =>
    strings.reduce((text, piece, index) => {
      const value = values[index - 1] as CommandValue;
      const words = Array.isArray(value) ? value : [value];
      return text + words.map(word).join(" ") + piece;
    });
  return new Command(assemble(revealedWord), assemble(shownWord));
}

/**
 * A command from its words: program and arguments.
 *
 * @param words The words, each taken literally.
 * @throws {TypeError} There are none.
 */
export function commandOf(words: readonly (string | number | bigint | Secret)[]): Command {
  if (words.length === 0) throw new TypeError("Cannot use command: it has no words");
  return new Command(words.map(revealedWord).join(" "), words.map(shownWord).join(" "));
}

function revealedWord(value: string | number | bigint | Secret): string {
  return value instanceof Secret ? quote(value.reveal()) : quote(checkValue(value));
}

function shownWord(value: string | number | bigint | Secret): string {
  return value instanceof Secret ? MASK : quote(value);
}

function checkValue(value: unknown): string | number | bigint {
  if (typeof value === "string" || typeof value === "number" || typeof value === "bigint") {
    return value;
  }
  // `undefined` as a word would run another command than the one that was meant.
  throw new TypeError(`Cannot quote value: it is ${value === null ? "null" : typeof value}`);
}
