import type { Limits } from "./spin.ts";

/** A defence of the code, and what the model finds where it is missing. */
export interface Variant {
  /** Its number in `lock.pml`, where it is called `NO_…`. */
  missing: number;
  /** What is missing, as docs/model.md says it. */
  what: string;
  /** What happens in the run: as little as breaks it. */
  limits: Limits;
  /** The assertion that fails. */
  violated: string;
}

/** Each is replayed with the real agent by the test of the same number in `replay*.test.ts`. */
export const VARIANTS: readonly Variant[] = [
  {
    missing: 1,
    what: "clean-up before a grant",
    limits: { CLAIMS: 2 },
    violated: "handoverHolds",
  },
  {
    missing: 2,
    what: "the agent's own descriptor of the lock",
    limits: { KILLS: 1, PEERS: 1, CLAIMS: 1 },
    violated: "exclusionHolds",
  },
  {
    missing: 3,
    what: "a look at the path after locking",
    limits: { UNLINKS: 1, PEERS: 1, CLAIMS: 1 },
    violated: "exclusionHolds",
  },
  {
    missing: 4,
    what: "the detached session: EOF frees the lock",
    limits: { CUTS: 1, PEERS: 1, CLAIMS: 1 },
    violated: "exclusionHolds",
  },
  {
    missing: 5,
    what: "the waiting holder's end by EPIPE",
    limits: { CRASHES: 1, PEERS: 1, CLAIMS: 1 },
    violated: "nothingIsLeft",
  },
  {
    missing: 6,
    what: "the tie between holder and agent until the record is written",
    limits: { CRASHES: 1, CLAIMS: 1 },
    violated: "nothingIsLeft",
  },
  {
    missing: 7,
    what: "the token's counter on disk",
    limits: { CRASHES: 1, CLAIMS: 2 },
    violated: "tokensRise",
  },
  {
    missing: 8,
    what: "pidfd_getfd: a restart opens the path anew",
    limits: { CRASHES: 1, KILLS: 1, PEERS: 1, CLAIMS: 1 },
    violated: "exclusionHolds",
  },
  {
    missing: 9,
    what: "the lock on the run file: an older generation acts beside the new one",
    limits: { PEERS: 1, CLAIMS: 2, JOINERS: 1 },
    violated: "exclusionHolds",
  },
  {
    missing: 10,
    what: "a look at the other ownerships' files before a grant",
    limits: { UNLINKS: 1, CLAIMS: 2 },
    violated: "exclusionHolds",
  },
  {
    missing: 11,
    what: "a look at the lock files when a session resumes",
    limits: { CRASHES: 1, UNLINKS: 1, PEERS: 1, CLAIMS: 1 },
    violated: "exclusionHolds",
  },
  {
    missing: 12,
    what: "the record of a new holder before its order",
    limits: { CRASHES: 1, KILLS: 1, CLAIMS: 1 },
    violated: "lossIsExplained",
  },
];
