import { say } from "../build/output.ts";

/** The most columns that a line has. */
const WIDTH = 80;

/** Columns in front of the text: the time, then who. */
const MARGIN = 21;

const COLOURS: Record<string, number> = { alice: 36, bob: 35, shell: 33, demo: 90, kernel: 32 };

/** Prints what happens, with the time since the start in milliseconds. */
export class Timeline {
  readonly #startMs = performance.now();
  readonly #hasColours = process.stdout.isTTY === true && (process.env.NO_COLOR ?? "") === "";

  /**
   * Prints one event, wrapped to 80 columns.
   *
   * @param who Who did it or saw it.
   * @param text What happened.
   */
  tell(who: string, text: string): void {
    const ms = Math.round(performance.now() - this.#startMs);
    const [first, ...rest] = wrap(text, WIDTH - MARGIN);
    say(`${String(ms).padStart(7)} ms  ${this.#colour(who.padEnd(MARGIN - 12))}${first}`);
    for (const line of rest) say(`${"".padEnd(MARGIN)}${line}`);
  }

  /** Prints a heading. */
  head(text: string): void {
    say("");
    say(this.#hasColours ? `\x1b[1m${text}\x1b[0m` : text);
  }

  #colour(who: string): string {
    const code = COLOURS[who.trim()];
    return this.#hasColours && code !== undefined ? `\x1b[${code}m${who}\x1b[0m` : who;
  }
}

/** Breaks a text at spaces; a word that is too long for a line is broken where the line ends. */
export function wrap(text: string, columns: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (let word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = "";
    }
    for (; word.length > columns; word = word.slice(columns)) lines.push(word.slice(0, columns));
    line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
