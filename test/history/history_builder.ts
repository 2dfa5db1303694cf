import type { HistoryEvent, Way } from "./history.ts";

/** One claim of a made-up history; times are nanoseconds, absent ones did not happen. */
export interface ClaimPlan {
  /** The client. */
  c: string;
  n?: number;
  l?: string;
  way?: Way;
  owner?: string;
  uid?: number;
  shared?: boolean;
  /** Default: 10 before the grant. */
  claimed?: number;
  queued?: number;
  granted?: number;
  token?: number | null;
  joined?: boolean;
  refused?: number;
  acts?: number[];
  release?: number;
  /** When the release was answered; default: 5 after it. */
  released?: number;
  /** How it was refused. */
  releaseCode?: string;
  lost?: number;
}

/** The events of one claim. */
export function eventsOf(plan: ClaimPlan): HistoryEvent[] {
  const { c, n = 1, l = "deploy", way = "local", uid = 0, shared = false } = plan;
  const { granted, queued, refused, release, lost, token = 1, joined = false } = plan;
  const claimed = plan.claimed ?? (granted ?? refused ?? 10) - 10;
  const owner = plan.owner ?? c;
  const events: HistoryEvent[] = [
    { e: "claim", c, n, l, way, owner, uid, shared, waits: queued !== undefined, t: claimed },
  ];
  if (queued !== undefined) events.push({ e: "queued", c, n, t: queued });
  if (granted !== undefined) events.push({ e: "granted", c, n, token, joined, t: granted });
  if (refused !== undefined) events.push({ e: "refused", c, n, code: "contended", t: refused });
  for (const t of plan.acts ?? []) events.push({ e: "act", c, n, by: "self", t });
  if (release !== undefined) {
    const code = plan.releaseCode === undefined ? {} : { code: plan.releaseCode };
    events.push({ e: "release", c, n, t: release });
    events.push({ e: "released", c, n, ...code, t: plan.released ?? release + 5 });
  }
  if (lost !== undefined) events.push({ e: "lost", c, n, reason: "test", t: lost });
  return events;
}

/** The events of several claims. */
export function historyOf(...plans: ClaimPlan[]): HistoryEvent[] {
  return plans.flatMap(eventsOf);
}
