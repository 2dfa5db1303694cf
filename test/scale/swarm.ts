import { spawn } from "node:child_process";
import { childExit, eachLine } from "../support/child.ts";
import { EventLog } from "../support/events.ts";

/** What `test/fixtures/session_swarm.py` is told. */
export interface SwarmOptions {
  /** How many sessions. */
  count: number;
  /** Claims of all together; one of each session unless told. */
  locks?: number;
  /** One lock for all of them. */
  name?: string;
  /** What their locks' names begin with. */
  prefix?: string;
  /** How long each claim waits, in milliseconds. */
  waitMs?: number;
  /** Whether a lock is released as soon as it is granted. */
  release?: boolean;
  /** Whether each session leaves a process that only its environment leads back to. */
  leftover?: boolean;
  /** Whether each claims only when the one before it is queued or has its answer. */
  inOrder?: boolean;
}

/** A line of the fixture. */
export interface SwarmEvent {
  readonly event: "queued" | "granted" | "resumed" | "failed" | "started";
  readonly session: number;
  /** The session's process. */
  readonly pid: number;
  readonly locks?: Record<string, { token: number; holder: number }>;
  readonly leftover?: number | null;
  /** When it was granted, in nanoseconds of CLOCK_MONOTONIC. */
  readonly at?: number;
  readonly position?: number;
  /** Whether a resumed session has the locks that it had. */
  readonly isSame?: boolean;
  readonly why?: string;
}

/** Many sessions, each a process of its own. */
export interface Swarm extends AsyncDisposable {
  /** What they said. */
  readonly events: EventLog<SwarmEvent>;
  /** Waits until so many sessions have said this. @throws {Error} One failed. */
  all(event: SwarmEvent["event"], deadlineMs: number): Promise<SwarmEvent[]>;
}

/** Starts sessions with an agent. */
export function startSwarm(socket: string, options: SwarmOptions): Swarm {
  const program = "test/fixtures/session_swarm.py";
  const child = spawn("python3", [program, socket, JSON.stringify(options)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exit = childExit(child);
  const events = new EventLog<SwarmEvent>();
  eachLine(child.stdout as NodeJS.ReadableStream, (line) => events.push(JSON.parse(line)));
  exit.then(() => events.end("the sessions' parent has ended"));
  const all = async (event: SwarmEvent["event"], deadlineMs: number) => {
    let seen = 0;
    const isLast = (said: SwarmEvent) => {
      if (said.event === "failed") throw new Error(`session ${said.session} failed: ${said.why}`);
      return said.event === event && ++seen === options.count;
    };
    await events.waitFor(isLast, { what: `${options.count} sessions ${event}`, deadlineMs });
    return events.all.filter((said) => said.event === event);
  };
  const end = async () => {
    child.stdin?.end();
    await exit;
  };
  return { events, all, [Symbol.asyncDispose]: end };
}
