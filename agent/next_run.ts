/**
 * One piece of work for all who ask for it at about the same time.
 *
 * @module
 */

/**
 * Work whose result may serve several, as long as it began after each of them asked.
 *
 * What began before somebody asked may have missed what that one has just done (sent signals, seen a
 * root die), so it never answers them: who asks during a run gets the next one, together with all
 * others who ask until that begins. However many ask, no more than one run goes on at a time.
 */
export class NextRun<T> {
  readonly #work: () => Promise<T>;
  #current: Promise<T> | undefined;
  #next: Promise<T> | undefined;

  /**
   * @param work The work.
   */
  constructor(work: () => Promise<T>) {
    this.#work = work;
  }

  /** The result of a run that begins after this call. */
  ask(): Promise<T> {
    if (this.#current === undefined) return this.#begin();
    this.#next ??= this.#current.then(() => this.#begin(), () => this.#begin());
    return this.#next;
  }

  #begin(): Promise<T> {
    this.#next = undefined;
    const run = this.#work();
    this.#current = run;
    const end = () => {
      if (this.#current === run) this.#current = undefined;
    };
    run.then(end, end);
    return run;
  }
}
