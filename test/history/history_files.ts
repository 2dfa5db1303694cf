import { closeSync, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { type HistoryEvent, parseHistory } from "./history.ts";

/** The files that a history is written to, read on as they grow. */
export class HistoryFiles {
  /** Answered claims and releases so far. */
  answers = 0;
  readonly #folder: string;
  readonly #events: HistoryEvent[] = [];
  readonly #files = new Map<string, { offset: number; rest: string }>();
  readonly #buffer = Buffer.alloc(1024 * 1024);

  /**
   * @param folder Each file in it is one process's.
   */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** All events so far. A line that is not whole yet is read the next time. */
  read(): readonly HistoryEvent[] {
    for (const name of readdirSync(this.#folder)) this.#readOn(name);
    return this.#events;
  }

  /** The events of one file, by its path. */
  readOne(path: string): HistoryEvent[] {
    const text = readFileSync(path, "utf8");
    return parseHistory(text.slice(0, text.lastIndexOf("\n") + 1));
  }

  #readOn(name: string): void {
    const state = this.#files.get(name) ?? { offset: 0, rest: "" };
    this.#files.set(name, state);
    const fd = openSync(join(this.#folder, name), "r");
    try {
      for (let count = -1; count !== 0;) {
        count = readSync(fd, this.#buffer, 0, this.#buffer.length, state.offset);
        state.offset += count;
        // All that is written is ASCII, so no character is cut in two.
        this.#take(state, this.#buffer.toString("latin1", 0, count));
      }
    } finally {
      closeSync(fd);
    }
  }

  #take(state: { rest: string }, text: string): void {
    const all = state.rest + text;
    const end = all.lastIndexOf("\n") + 1;
    state.rest = all.slice(end);
    for (const event of parseHistory(all.slice(0, end))) {
      this.#events.push(event);
      const isAnswer = event.e === "granted" || event.e === "released" ||
        (event.e === "refused" && event.code !== "connection");
      if (isAnswer) this.answers++;
    }
  }
}
