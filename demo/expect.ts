/** A step of the demo did not show what it should. */
export class ExpectationError extends Error {
  override name = "ExpectationError";
}

/**
 * Ends the demo unless something is as it should be.
 *
 * @param holds Whether it is.
 * @param otherwise What to say if not.
 * @throws {ExpectationError} It is not.
 */
export function expect(holds: boolean, otherwise: string): void {
  if (!holds) throw new ExpectationError(`The demo has failed: ${otherwise}`);
}
