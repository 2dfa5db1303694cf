/**
 * The steps of this agent at which a test ends it.
 *
 * In the product {@linkcode crashPoint} does nothing, and the bundler leaves nothing of its calls. A
 * build for tests has `test/support/armed_crash_points.ts` in the place of this module, which kills or
 * stops the process at a point of choice. A point stands after the statement that it is named for.
 *
 * @module
 */

/** A step, as `WHAT.HAS-JUST-HAPPENED`. */
export type CrashPoint =
  // A start.
  | "serve.run-locked"
  | "serve.older-ended"
  | "serve.listening"
  | "adoption.file-copied"
  | "adoption.lock-adopted"
  | "adoption.all-adopted"
  // A claim.
  | "claim.queued"
  | "claim.file-opened"
  | "claim.waiting"
  | "claim.kernel-locked"
  | "claim.cancelled"
  | "holder.started"
  | "holder.ordered"
  | "holder.untied"
  | "holder.replaced"
  | "token.mark-written"
  | "token.reserved"
  | "token.counted"
  // A grant.
  | "grant.owned"
  | "grant.recorded"
  | "grant.settled"
  | "join.recorded"
  | "park.recorded"
  | "unpark.recorded"
  | "record.drafted"
  | "record.replaced"
  | "record.removed"
  | "record.copied"
  // A session, its end, a release.
  | "session.detached"
  | "session.resumed"
  | "end.begun"
  | "end.told"
  | "clean-up.found"
  | "clean-up.signalled"
  | "end.cleared"
  | "end.unlocked"
  | "end.finished"
  | "unlock.unlocked"
  | "unlock.holder-killed"
  | "release.unlocked";

/**
 * A step has been made.
 *
 * @param _point Which.
 */
export function crashPoint(_point: CrashPoint): void {}
