/**
 * A history: what each client asked and was told, what acted on the host under which lock, and what
 * was done to them meanwhile.
 *
 * One JSON object a line. Each process appends to a file of its own, a line being one write(2), so a
 * kill leaves whole lines. `t` is CLOCK_MONOTONIC in nanoseconds, which all processes of a host share;
 * it is read *before* what it stamps is done by whoever does it, and *after* what is only heard of. So
 * an answer is stamped late and a release early: what lies between them was held for certain.
 */

/** How a client claims: the ones of the agent get tokens. */
export type Way = "local" | "run" | "library" | "bridge" | "shell" | "flock";

interface Stamped {
  /** CLOCK_MONOTONIC in nanoseconds. */
  t: number;
}

interface OfClient extends Stamped {
  /** One client: never used again after its death. */
  c: string;
}

/** A claim is about to be sent. */
export interface ClaimEvent extends OfClient {
  e: "claim";
  /** The claim's number among those of the client. */
  n: number;
  /** The lock. */
  l: string;
  way: Way;
  /** The identity that it is made under, and the user. */
  owner: string;
  uid: number;
  shared: boolean;
  waits: boolean;
}

/** The claim was answered with the lock. */
export interface GrantedEvent extends OfClient {
  e: "granted";
  n: number;
  /** `null` for the ways that have none. */
  token: number | null;
  /** Absent where the client is not told. */
  joined?: boolean;
}

/** The client was told that its claim waits. */
export interface QueuedEvent extends OfClient {
  e: "queued";
  n: number;
}

/** The claim has ended without the lock. */
export interface RefusedEvent extends OfClient {
  e: "refused";
  n: number;
  /** The wire code; `contended` for 124; `connection` where the connection broke before an answer. */
  code: string;
}

/** A release of what claim `n` got is about to be sent. */
export interface ReleaseEvent extends OfClient {
  e: "release";
  n: number;
}

/** The release was answered; with a code where it was refused. */
export interface ReleasedEvent extends OfClient {
  e: "released";
  n: number;
  code?: string;
}

/** The client was told that it has the lock of claim `n` no longer, or found out. */
export interface LostEvent extends OfClient {
  e: "lost";
  n: number;
  reason: string;
}

/** Something acts on the host under claim `n` of a client: the client itself or what it started. */
export interface ActEvent extends OfClient {
  e: "act";
  n: number;
  /** What acts, for people: `self`, `child`, `daemon`. */
  by: string;
}

/** The session of a client is being ended from outside, as of now. */
export interface EndEvent extends OfClient {
  e: "end";
  /** What is done to it. */
  how: string;
}

/** Something that is done to the host or to one of the programs. */
export interface FaultEvent extends Stamped {
  e: "fault";
  kind: string;
  /** The lock, where the fault is about one. */
  l?: string;
  /** When it was over, where it lasts, in nanoseconds as `t`. */
  until?: number;
}

/** The agent's log said so. It is read later than it happened, and a line can be missing. */
export interface AgentEvent extends Stamped {
  e: "agent";
  event: string;
  /** `CLIENT#N` of the claim that it is about, its token, and the session's id, where the line has them. */
  claim?: string;
  token?: number;
  session?: string;
}

/** A line that is none of the above. */
export interface MalformedEvent {
  e: "malformed";
  line: string;
  reason: string;
}

/** An event of a client that concerns one of its claims. */
export type StepEvent =
  | ClaimEvent
  | GrantedEvent
  | QueuedEvent
  | RefusedEvent
  | ReleaseEvent
  | ReleasedEvent
  | LostEvent;

/** One line of a history. */
export type HistoryEvent =
  | StepEvent
  | ActEvent
  | EndEvent
  | FaultEvent
  | AgentEvent
  | MalformedEvent;

/** The fields that each event must have beside `t`, and their types. */
const fields: Record<string, Record<string, string>> = {
  claim: {
    ...{ c: "string", n: "number", l: "string", way: "string", owner: "string" },
    ...{ uid: "number", shared: "boolean", waits: "boolean" },
  },
  granted: { c: "string", n: "number" },
  queued: { c: "string", n: "number" },
  refused: { c: "string", n: "number", code: "string" },
  release: { c: "string", n: "number" },
  released: { c: "string", n: "number" },
  lost: { c: "string", n: "number", reason: "string" },
  act: { c: "string", n: "number", by: "string" },
  end: { c: "string", how: "string" },
  fault: { kind: "string" },
  agent: { event: "string" },
};

/** Writes an event as a line, with its newline. */
export function formatEvent(event: HistoryEvent): string {
  return `${JSON.stringify(event)}\n`;
}

/** Reads a log. It never throws: what is no event becomes a malformed one, which the checker rejects. */
export function parseHistory(text: string): HistoryEvent[] {
  const lines = text.split("\n");
  const rest = lines.pop();
  if (rest !== undefined && rest !== "") lines.push(`${rest} (without newline)`);
  return lines.map(parseLine);
}

function parseLine(line: string): HistoryEvent {
  try {
    const event = JSON.parse(line) as Record<string, unknown>;
    const wrong = whatIsWrong(event);
    if (wrong === undefined) return event as unknown as HistoryEvent;
    return { e: "malformed", line, reason: wrong };
  } catch (error) {
    return { e: "malformed", line, reason: (error as Error).message };
  }
}

function whatIsWrong(event: Record<string, unknown>): string | undefined {
  const types = typeof event === "object" && event !== null ? fields[`${event.e}`] : undefined;
  if (types === undefined) return "no known event";
  if (!Number.isSafeInteger(event.t)) return "no time";
  for (const name in types) {
    const type: string = typeof event[name];
    if (type !== types[name]) return `${name} is no ${types[name]}`;
  }
  const hasToken = event.token === null || Number.isSafeInteger(event.token);
  return event.e === "granted" && !hasToken ? "token is no integer" : undefined;
}
