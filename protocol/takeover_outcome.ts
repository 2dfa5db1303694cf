/**
 * What stood in the way of a takeover that was refused.
 *
 * @module
 */

/**
 * `nobody-asked`: no session of the agent was there to be asked. `not-authorised`: who has it was asked and kept
 * it, and the claimant may not end that session. `before-deadline`: the claim did not wait for the
 * deadline. `ending`: the session is being ended, and something of it lives on.
 */
export type TakeoverOutcome = "nobody-asked" | "not-authorised" | "before-deadline" | "ending";

const HINTS: Record<TakeoverOutcome, string> = {
  "nobody-asked": "nobody was there to be asked for it: wait with -w",
  "not-authorised": "asked, not released: only root, that user and admins may force it",
  "before-deadline": "asked, not released: -w must outlast --takeover-deadline",
  "ending": "what has it is being ended and lives on: status shows what remains",
};

/**
 * What a person can do about it, in a line.
 *
 * @param outcome What stood in the way.
 */
export function takeoverHint(outcome: TakeoverOutcome): string {
  return HINTS[outcome];
}
