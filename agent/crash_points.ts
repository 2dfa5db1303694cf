/**
 * The steps of this agent at which a test ends it.
 *
 * In the product {@linkcode crashPoint} does nothing, and the bundler leaves nothing of its calls.
 * A build for tests puts a module in the place of this one that kills or stops the process at a
 * point of choice (`test/support/armed_crash_points.ts`). A point stands *after* the statement that
 * it is named for.
 *
 * @module
 */

/** A step, as `WHERE.WHAT-HAS-JUST-HAPPENED`. */
export type CrashPoint = "serve.run-locked";

/**
 * A step has been made.
 *
 * @param _point Which.
 */
export function crashPoint(_point: CrashPoint): void {}
