/** What is measured: one run of it, timed in milliseconds by itself, because what is around it is not. */
export interface Subject {
  readonly name: string;
  /** Runs once; returns what it took, in milliseconds. */
  measure(): Promise<number>;
}

/** The times of one subject. */
export interface Times {
  readonly name: string;
  readonly samples: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** Pause between two measurements, in milliseconds: what one leaves to be done must not be in the next. */
const PAUSE_MS = 2;

/**
 * Measures subjects in turns (A B C A B C …), so that whatever else the machine does meets them all.
 *
 * @param subjects What to measure.
 * @param rounds Measurements of each that count; a tenth more come before them and do not.
 * @param signal Ends the measuring.
 */
export async function interleave<Name extends string>(
  subjects: Record<Name, () => Promise<number>>,
  rounds: number,
  signal: AbortSignal,
): Promise<Record<Name, Times>> {
  const names = Object.keys(subjects) as Name[];
  const times = new Map(names.map((name) => [name, [] as number[]]));
  const warmUp = Math.ceil(rounds / 10);
  for (let round = -warmUp; round < rounds; round++) {
    for (const name of names) {
      signal.throwIfAborted();
      const tookMs = await subjects[name]();
      if (round >= 0) times.get(name)?.push(tookMs);
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
  return Object.fromEntries(
    names.map((name) => [name, summarize(name, times.get(name) ?? [])]),
  ) as Record<Name, Times>;
}

/** The median and the 99th percentile of some times. */
export function summarize(name: string, times: readonly number[]): Times {
  const sorted = [...times].sort((a, b) => a - b);
  const at = (share: number) =>
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  return { name, samples: sorted.length, p50Ms: at(0.5) ?? NaN, p99Ms: at(0.99) ?? NaN };
}
