/** A test that did not run, and why. */
export type Skip = { readonly name: string; readonly reason: string };

/** What a run of tests or checks came to. */
export type Results = {
  passed: number;
  failed: number;
  skipped: number;
  readonly skips: Skip[];
};

/** A run of nothing. */
export function noResults(): Results {
  return { passed: 0, failed: 0, skipped: 0, skips: [] };
}

/** Adds one run to another. */
export function addResults(sum: Results, more: Results): void {
  sum.passed += more.passed;
  sum.failed += more.failed;
  sum.skipped += more.skipped;
  sum.skips.push(...more.skips);
}

/** The last line of every run: `N passed, N failed`, with `, N skipped` when any were. */
export function closingLine(results: Results): string {
  const line = `${results.passed} passed, ${results.failed} failed`;
  return results.skipped === 0 ? line : `${line}, ${results.skipped} skipped`;
}
