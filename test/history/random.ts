/** A small seeded generator (mulberry32), so that a run's choices can be made again. */
export interface Random {
  /** From 0 up to but not including 1. */
  fraction(): number;
  /** An integer from 0 up to but not including `n`. */
  below(n: number): number;
}

/** Makes a generator from a 32-bit seed. */
export function makeRandom(seed: number): Random {
  let state = seed >>> 0;
  const fraction = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return { fraction, below: (n) => Math.floor(fraction() * n) };
}
