/** A run of test files in a longer form than the gate's. */
export interface LongRun {
  /** Regular expressions for the labels of test runs, as for `npm test`. */
  readonly patterns: readonly string[];
  /** What makes it long. */
  readonly env: Readonly<Record<string, string>>;
}

/** A part of the soak that can be asked for. */
export interface Part {
  readonly name: string;
  /** What it does, for people. */
  readonly what: string;
  /** Runs of test files; the history has a loop of its own instead. */
  readonly runs: readonly LongRun[];
}

const KILLS = { SSHLOCK_KILLS: "200", SSHLOCK_STOPS: "50", SSHLOCK_LONG_STOPS: "0" };
const STOPS = { SSHLOCK_KILLS: "0", SSHLOCK_STOPS: "0", SSHLOCK_LONG_STOPS: "1000" };
const STOPPED_MS = { SSHLOCK_STOPPED_MS: "30000" };
const ON_DENO = { SSHLOCK_CRASH_ENGINE: "deno" };
const LONG = { SSHLOCK_TEST_SOAK: "1" };

/** The part that runs histories. */
export const HISTORY = "history";

/** All parts, in their order: the short ones first. */
export const PARTS: readonly Part[] = [
  {
    name: "model",
    what: "the model of the protocol, which is searched as a whole in the gate as well",
    runs: [{ patterns: ["^model/"], env: {} }],
  },
  {
    name: "silence",
    what: "silent sessions, with the limits that are shipped",
    runs: [{ patterns: ["^silence/"], env: { SSHLOCK_SILENCE_DEFAULTS: "1" } }],
  },
  {
    name: "fuzz",
    what: "hostile connections, 100,000 for each flavour of the agent",
    runs: [{ patterns: ["^fuzz/"], env: LONG }],
  },
  {
    name: "scale",
    what: "1,000 sessions, 10,000 locks, 1,000 waiters on one lock",
    runs: [{ patterns: ["^scale/"], env: LONG }],
  },
  {
    name: "stopped",
    what: "at each crash point an agent that is stopped for 30 s and goes on beside the next one",
    runs: [
      { patterns: ["^agent/generations"], env: STOPPED_MS },
      { patterns: ["^crash/"], env: { ...STOPS, ...STOPPED_MS } },
      { patterns: ["^crash/"], env: { ...STOPS, ...STOPPED_MS, ...ON_DENO } },
    ],
  },
  {
    name: "crash",
    what: "200 kills and 50 short stops of the agent at each crash point",
    runs: [{ patterns: ["^crash/"], env: KILLS }, {
      patterns: ["^crash/"],
      env: { ...KILLS, ...ON_DENO },
    }],
  },
  {
    name: HISTORY,
    what: "histories under all faults, one after the other, for the minutes of --minutes",
    runs: [],
  },
];
