import { inspect } from "node:util";

import type { TestRecord } from "./test_record.ts";

type NodeTestEvent = {
  type: string;
  data: {
    name: string;
    nesting: number;
    message?: string;
    skip?: string | boolean;
    todo?: string | boolean;
    details?: {
      type?: string;
      error?: Error & { failureType?: string };
    };
  };
};

// What node:test itself says at the end of a file.
const TOTALS = /^(tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) [\d.]+$/;

/** A reporter for node:test that writes each finished test, and what a test tells, as a line of JSON. */
export default async function* reportLines(
  source: AsyncIterable<NodeTestEvent>,
): AsyncGenerator<string> {
  const path: string[] = [];
  for await (const { type, data } of source) {
    // Starts come in order, a parent before its children, so the path is complete at each end.
    if (type === "test:start") path.splice(data.nesting, Infinity, data.name);
    if (type === "test:diagnostic" && !TOTALS.test(data.message ?? "")) {
      yield `${JSON.stringify({ kind: "told", text: data.message })}\n`;
    }
    if (type !== "test:pass" && type !== "test:fail") continue;
    const name = [...path.slice(0, data.nesting), data.name].join(" > ");
    const record = toRecord(name, type, data);
    if (record !== undefined) yield `${JSON.stringify(record)}\n`;
  }
}

// A suite, or a test that failed only because a part of it did, is not counted beside its parts.
function toRecord(
  name: string,
  type: string,
  { skip, todo, details }: NodeTestEvent["data"],
): TestRecord | undefined {
  const skipped = reasonOf(skip) ?? reasonOf(todo);
  if (skipped !== undefined) return { kind: "skipped", name, reason: skipped };
  if (type === "test:pass") {
    return details?.type === "suite" ? undefined : { kind: "passed", name };
  }
  const error = details?.error;
  if (error?.failureType === "subtestsFailed") return undefined;
  return { kind: "failed", name, error: inspect(error?.cause ?? error, { depth: 4 }) };
}

function reasonOf(mark: string | boolean | undefined): string | undefined {
  if (mark === undefined || mark === false) return undefined;
  return mark === true || mark === "" ? "no reason given" : mark;
}
