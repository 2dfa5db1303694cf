import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { CrashPoint } from "../../agent/crash_points.ts";
import { signalPid } from "../support/processes.ts";
import { type Chain, type Scenario, WORK } from "./chain.ts";

/** Each crash point at least once, and some of them once more beside a waiter or a joined lock. */
export const SCENARIOS: readonly Scenario[] = [
  ...at(
    [
      "claim.queued",
      "claim.file-opened",
      "claim.kernel-locked",
      "holder.started",
      "holder.ordered",
      "holder.untied",
      "token.counted",
      "grant.owned",
      "grant.recorded",
      "grant.settled",
      "record.drafted",
      "record.replaced",
    ],
    "a claim",
    async (chain) => {
      const session = await chain.session("a");
      chain.arm();
      ignore(session.claim(WORK));
    },
  ),

  ...at(
    ["join.recorded", "record.replaced", "record.copied"],
    "a claim that joins",
    async (chain) => {
      const session = await chain.joining();
      chain.arm();
      ignore(session.claim("kept"));
    },
  ),

  ...at(["claim.waiting"], "a claim that waits", async (chain) => {
    await (await chain.session("a")).claim(WORK);
    const waiter = await chain.session("b");
    chain.arm();
    ignore(waiter.claim(WORK, 60_000));
  }),

  ...at(["claim.cancelled"], "a claim that is taken back", async (chain) => {
    const { waiter } = await heldAndAwaited(chain);
    chain.arm();
    ignore(waiter.release(WORK));
  }),

  ...at(
    [
      "unlock.unlocked",
      "end.unlocked",
      "claim.kernel-locked",
      "grant.recorded",
      "grant.settled",
    ],
    "a release with a waiter",
    async (chain) => {
      const { owner } = await heldAndAwaited(chain);
      chain.arm();
      ignore(owner.release(WORK));
    },
  ),

  ...at(
    [
      "unlock.unlocked",
      "unlock.holder-killed",
      "end.unlocked",
      "release.unlocked",
      "record.removed",
    ],
    "a release",
    async (chain) => {
      const session = await chain.session("a");
      await session.claim(WORK);
      chain.arm();
      ignore(session.release(WORK));
    },
  ),

  ...at(["release.unlocked", "record.drafted"], "a release of a joined lock", async (chain) => {
    const session = await chain.joining();
    await session.claim("kept");
    chain.arm();
    ignore(session.release("kept"));
  }),

  ...at(
    [
      "end.begun",
      "end.told",
      "clean-up.found",
      "clean-up.signalled",
      "end.cleared",
      "end.unlocked",
      "end.finished",
    ],
    "the end of a session",
    async (chain) => {
      const session = await chain.mortal();
      chain.arm();
      await session.die();
    },
  ),

  ...at(["park.recorded"], "a dropped link", async (chain) => {
    const session = await chain.mortal(50);
    chain.arm();
    await session.die();
  }),

  ...at(["unpark.recorded"], "an owner that comes back", async (chain) => {
    await (await chain.mortal(60_000)).die();
    const session = await chain.successor();
    chain.arm();
    ignore(session.claim(WORK));
  }),

  ...at(["session.resumed"], "a resumption", (chain) => {
    chain.arm();
    chain.resumeResident();
    return Promise.resolve();
  }),

  // Before that, nobody but the agent has the lock: the death of both is a loss.
  ...at(["holder.replaced"], "a killed holder", async (chain) => {
    const session = await chain.session("a");
    const { holderPid } = await session.claim(WORK);
    chain.arm();
    signalPid(holderPid, "SIGKILL");
  }),

  ...at(
    [
      "serve.run-locked",
      "serve.older-ended",
      "serve.listening",
      "adoption.file-copied",
      "adoption.lock-adopted",
      "adoption.all-adopted",
      "session.detached",
      "record.replaced",
    ],
    "a start",
    async (chain) => {
      await (await chain.session("a")).claim(WORK);
      for (const owner of ["c", "d"]) await (await chain.session(owner)).claim("shared", 0, true);
    },
    { inStart: true },
  ),

  ...at(["adoption.all-adopted"], "a start that finds no records", async (chain) => {
    await (await chain.session("a")).claim(WORK);
    const folder = join(chain.place.runtimeDir, "locks");
    for (const file of readdirSync(folder)) rmSync(join(folder, file));
  }, { inStart: true }),

  ...at(
    ["end.told", "clean-up.found", "end.finished"],
    "a start that ends a session",
    async (c) => {
      const mortal = await c.mortal();
      // Else this agent may be done with the end before it is killed, and leave none to the start.
      signalPid(c.agentPid, "SIGSTOP");
      await mortal.die();
    },
    { inStart: true },
  ),

  ...at(["token.mark-written", "token.reserved"], "a start that reserves tokens", (chain) => {
    rmSync(join(chain.place.stateDir, "token"), { force: true });
    return Promise.resolve();
  }, { inStart: true }),
];

/** The agent is killed from outside, as soon as the client has its answer. */
export const FROM_OUTSIDE: readonly Scenario[] = [
  {
    name: "a claim was answered",
    drive: async (chain) => {
      await (await chain.session("a")).claim(WORK);
      signalPid(chain.agentPid, "SIGKILL");
    },
  },
  {
    name: "a release was answered",
    drive: async (chain) => {
      const session = await chain.session("a");
      await session.claim(WORK);
      await session.release(WORK);
      signalPid(chain.agentPid, "SIGKILL");
    },
  },
  {
    name: "a session has died",
    drive: async (chain) => {
      await (await chain.mortal()).die();
      signalPid(chain.agentPid, "SIGKILL");
    },
  },
];

function at(
  points: CrashPoint[],
  what: string,
  drive: Scenario["drive"],
  options: { inStart?: boolean } = {},
): Scenario[] {
  return points.map((point) => ({
    name: `${point} of ${what}`,
    crashAt: (round) => `${point}:${REPEATED.includes(point) ? 1 + round % 4 : 1}`,
    drive,
    ...options,
  }));
}

/** Points that a start comes to for each ownership or session, of which there are four at least. */
const REPEATED: readonly string[] = [
  "adoption.file-copied",
  "adoption.lock-adopted",
  "session.detached",
];

async function heldAndAwaited(chain: Chain) {
  const owner = await chain.session("a");
  await owner.claim(WORK);
  const waiter = await chain.session("b");
  ignore(waiter.claim(WORK, 60_000));
  await waiter.queued();
  return { owner, waiter };
}

/** The agent crashes before it answers: the session keeps account of that. */
function ignore(request: Promise<unknown>): void {
  request.catch(() => {});
}
