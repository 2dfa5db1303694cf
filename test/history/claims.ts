import type {
  ActEvent,
  AgentEvent,
  ClaimEvent,
  EndEvent,
  FaultEvent,
  GrantedEvent,
  HistoryEvent,
  LostEvent,
  QueuedEvent,
  RefusedEvent,
  ReleasedEvent,
  ReleaseEvent,
  StepEvent,
} from "./history.ts";
import { type Report, violation } from "./violations.ts";

/** All that is known of one claim. */
export interface Claim {
  claim: ClaimEvent;
  granted?: GrantedEvent;
  queued?: QueuedEvent;
  refused?: RefusedEvent;
  release?: ReleaseEvent;
  released?: ReleasedEvent;
  lost?: LostEvent;
  firstAct?: ActEvent;
  lastAct?: ActEvent;
}

/** A lock in the hands of one owner: one token, or one claim of a way without tokens. */
export interface Ownership {
  lock: string;
  token: number | null;
  /** The claims that have it; more than one where they joined. */
  claims: Claim[];
  /** All that has been seen of it lies between these two, and it was held in between. */
  first: Sign;
  last: Sign;
  /** Its lock was not taken before, in nanoseconds. */
  notBefore: number;
  /** No agent had it: the shell protocol, flock(1), or a `run` of which the agent's log says nothing. */
  isForeign: boolean;
}

/** An event that proves that a lock was held when it is stamped. */
export type Sign = StepEvent | ActEvent;

/** Something happened between these two, in nanoseconds. */
export interface Span {
  from: number;
  to: number;
}

/** A history, sorted by what its events are about. */
export interface SortedHistory {
  claims: Claim[];
  /** By lock, in the order of their first signs; those without any sign are not among them. */
  locks: Map<string, Ownership[]>;
  /** By lock: when its file was taken away or replaced. */
  replacedAt: Map<string, Span[]>;
  /** By `CLIENT#N`: when the agent was first heard to end the session that the claim was made in. */
  endingAt: Map<string, number>;
  /** By token: claims that the agent granted, as its log says, and whose clients were ended before they read it. */
  unheard: Map<number, Claim[]>;
  faults: FaultEvent[];
  ends: EndEvent[];
  agent: AgentEvent[];
}

/** The fault that takes a lock's file away while it may be locked. */
export const replacedFault = "lock-file-unlinked";

/** Sorts a history. Events come in any order, since each process has a log of its own. */
export function sortHistory(events: Iterable<HistoryEvent>, report: Report): SortedHistory {
  const sorted: SortedHistory = {
    ...{ claims: [], locks: new Map(), replacedAt: new Map(), endingAt: new Map() },
    ...{ unheard: new Map(), faults: [], ends: [], agent: [] },
  };
  const steps: StepEvent[] = [];
  const acts: ActEvent[] = [];
  for (const event of events) {
    if (event.e === "malformed") {
      report(violation("malformed", `a line is no event: ${event.reason}`, event));
    } else if (event.e === "act") acts.push(event);
    else if (event.e === "end") sorted.ends.push(event);
    else if (event.e === "fault") addFault(sorted, event);
    else if (event.e === "agent") sorted.agent.push(event);
    else steps.push(event);
  }
  sorted.endingAt = collectEndings(sorted.agent);
  const claims = collectClaims(steps, report);
  addActs(claims, acts, report);
  sorted.claims = [...claims.values()];
  sorted.unheard = collectUnheard(sorted.agent, claims);
  sorted.locks = collectOwnerships(sorted);
  findOutWhoJoined(sorted.claims);
  return sorted;
}

function addFault({ faults, replacedAt }: SortedHistory, event: FaultEvent): void {
  faults.push(event);
  if (event.kind !== replacedFault || event.l === undefined) return;
  const span = { from: event.t, to: event.until ?? event.t };
  replacedAt.set(event.l, [...replacedAt.get(event.l) ?? [], span]);
}

/** The agent tells which session a claim is of when it grants it. */
function collectEndings(agent: readonly AgentEvent[]): Map<string, number> {
  const endingAt = new Map<string, number>();
  for (const { event, session, t } of agent) {
    // A later agent ends it again where one was killed before it had done so.
    if (event !== "session-ending" || session === undefined) continue;
    endingAt.set(session, Math.min(t, endingAt.get(session) ?? Infinity));
  }
  const byClaim = new Map<string, number>();
  for (const { event, claim, session } of agent) {
    const t = endingAt.get(session ?? "");
    if (event === "lock-granted" && claim !== undefined && t !== undefined) byClaim.set(claim, t);
  }
  return byClaim;
}

/** An answer that nobody has read is known from the agent's log alone. */
function collectUnheard(
  agent: readonly AgentEvent[],
  claims: ReadonlyMap<string, Claim>,
): Map<number, Claim[]> {
  const unheard = new Map<number, Claim[]>();
  for (const { event, claim: key, token } of agent) {
    const claim = claims.get(key ?? "");
    if (event !== "lock-granted" || token === undefined || claim === undefined) continue;
    if (claim.granted === undefined) unheard.set(token, [...unheard.get(token) ?? [], claim]);
  }
  return unheard;
}

const order = ["claim", "queued", "granted", "refused", "release", "released", "lost"] as const;

function collectClaims(steps: StepEvent[], report: Report): Map<string, Claim> {
  const claims = new Map<string, Claim>();
  steps.sort((a, b) => a.t - b.t || order.indexOf(a.e) - order.indexOf(b.e));
  for (const step of steps) {
    const key = `${step.c}#${step.n}`;
    const claim = claims.get(key);
    if (step.e === "claim" && claim === undefined) claims.set(key, { claim: step });
    else if (claim === undefined || !mayFollow(claim, step)) {
      report(violation("malformed", `${key} cannot be told "${step.e}" now`, claim?.claim, step));
    } else (claim as unknown as Record<string, StepEvent>)[step.e] = step;
  }
  return claims;
}

function mayFollow(claim: Claim, { e }: StepEvent): boolean {
  const isOpen = claim.granted === undefined && claim.refused === undefined;
  if (e === "granted" || e === "refused") return isOpen;
  if (e === "queued") return isOpen;
  if (e === "release") return claim.granted !== undefined && claim.release === undefined;
  if (e === "released") return claim.release !== undefined && claim.released === undefined;
  return e === "lost" && claim.granted !== undefined && claim.lost === undefined;
}

function addActs(claims: Map<string, Claim>, acts: ActEvent[], report: Report): void {
  for (const act of acts) {
    const claim = claims.get(`${act.c}#${act.n}`);
    if (claim?.granted === undefined || claim.granted.t > act.t) {
      const what = `${act.c} acts without a grant`;
      report(violation("act-without-grant", what, claim?.claim, claim?.granted, act));
    }
    if (claim === undefined) continue;
    if (claim.firstAct === undefined || act.t < claim.firstAct.t) claim.firstAct = act;
    if (claim.lastAct === undefined || act.t > claim.lastAct.t) claim.lastAct = act;
  }
}

function collectOwnerships(
  { claims, unheard, agent }: Pick<SortedHistory, "claims" | "unheard" | "agent">,
): Map<string, Ownership[]> {
  const grantedByAgent = new Set(
    agent.filter(({ event }) => event === "lock-granted").map(({ claim }) => claim),
  );
  const isForeign = (claim: Claim) =>
    ["shell", "flock"].includes(claim.claim.way) ||
    (claim.claim.way === "run" && !grantedByAgent.has(keyOf(claim)));
  const byKey = new Map<string, Ownership>();
  for (const claim of claims) {
    const { granted } = claim;
    const signs = signsOf(claim).sort((a, b) => a.t - b.t);
    const [first, last] = [signs[0], signs.at(-1)];
    if (granted === undefined || first === undefined || last === undefined) continue;
    const { token } = granted;
    const lock = claim.claim.l;
    const key = `${lock} ${token ?? `${granted.c}#${granted.n}`}`;
    const found = byKey.get(key);
    if (found === undefined) {
      const all = [claim, ...unheard.get(token ?? NaN) ?? []];
      const notBefore = Math.min(...all.map(({ claim: { t } }) => t));
      const facts = { lock, token, claims: [claim], first, last, notBefore };
      byKey.set(key, { ...facts, isForeign: isForeign(claim) });
    } else {
      found.claims.push(claim);
      found.notBefore = Math.min(found.notBefore, claim.claim.t);
      found.isForeign &&= isForeign(claim);
      if (first.t < found.first.t) found.first = first;
      if (last.t > found.last.t) found.last = last;
    }
  }
  const locks = new Map<string, Ownership[]>();
  for (const ownership of [...byKey.values()].sort((a, b) => a.first.t - b.first.t)) {
    const list = locks.get(ownership.lock) ?? [];
    list.push(ownership);
    locks.set(ownership.lock, list);
  }
  return locks;
}

/** Ways whose answers come over a network: they may come when the session has long been ended. */
const remoteWays: readonly string[] = ["library", "bridge"];

/** Whether the claim's answer may come when its session has long been ended. */
export function isRemote({ claim }: Claim): boolean {
  return remoteWays.includes(claim.way);
}

/**
 * What proves that the lock was held at that instant. A controller that is cut off may hear of a grant
 * when the lock has long been another's: for it, only what acts on the host is a proof. A release
 * counts when it was answered with success: the session was there then.
 */
function signsOf(claim: Claim): Sign[] {
  const { granted, firstAct, lastAct, release, released } = claim;
  const isReleased = released !== undefined && released.code === undefined;
  return [
    isRemote(claim) ? undefined : granted,
    firstAct,
    lastAct,
    isReleased ? release : undefined,
  ]
    .filter((event) => event !== undefined);
}

/** A client that is not told has joined when another of its owner heard of the token before. */
function findOutWhoJoined(claims: readonly Claim[]): void {
  const firstHeard = new Map<string, number>();
  for (const { claim, granted } of claims) {
    if (granted === undefined) continue;
    const key = `${granted.token} ${claim.owner}`;
    firstHeard.set(key, Math.min(firstHeard.get(key) ?? Infinity, granted.t));
  }
  for (const { claim, granted } of claims) {
    if (granted === undefined) continue;
    granted.joined ??= firstHeard.get(`${granted.token} ${claim.owner}`)! < granted.t;
  }
}

/** How a claim is called: unique in a history. */
export function keyOf({ claim }: Claim): string {
  return `${claim.c}#${claim.n}`;
}

/** Whether two ownerships of a lock may not be there at the same time. */
export function excludeEachOther(a: Ownership, b: Ownership): boolean {
  return !(isShared(a) && isShared(b));
}

/** Whether the ownership may be shared by other owners. */
export function isShared(ownership: Ownership): boolean {
  return ownership.claims.every(({ claim }) => claim.shared);
}
