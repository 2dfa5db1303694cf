/** Prints one line for people on standard output. */
export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** Prints one line about a failure on standard error. */
export function complain(line: string): void {
  process.stderr.write(`${line}\n`);
}

/**
 * Prints what is being done, does it, and prints how long it took.
 *
 * @param what The action, as a short phrase.
 */
export async function step<T>(what: string, work: () => T | Promise<T>): Promise<T> {
  const began = performance.now();
  try {
    const result = await work();
    say(`  ${what} (${Math.round(performance.now() - began)} ms)`);
    return result;
  } catch (error) {
    complain(`  ${what}: failed`);
    throw error;
  }
}
