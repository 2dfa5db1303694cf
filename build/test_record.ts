/** What became of one test. */
export type TestRecord =
  | { readonly kind: "passed"; readonly name: string }
  | { readonly kind: "failed"; readonly name: string; readonly error: string }
  | { readonly kind: "skipped"; readonly name: string; readonly reason: string };

/** Something that a test tells whoever reads the output, such as a figure (`t.diagnostic`). */
export type Told = { readonly kind: "told"; readonly text: string };

/** Reads the lines that `test_reporter.ts` wrote; a last line that was cut off is left out. */
export function parseRecordLines(text: string): { records: TestRecord[]; told: string[] } {
  const lines = text.split("\n").slice(0, -1).map((line): TestRecord | Told => JSON.parse(line));
  return {
    records: lines.filter((line) => line.kind !== "told"),
    told: lines.filter((line) => line.kind === "told").map((line) => line.text),
  };
}

/**
 * Reads the JUnit XML of `deno test` and `bun test`.
 *
 * Neither tells why a test was skipped, and Deno reports one that skipped itself as passed, so the
 * skips of the same file's run on Node are laid over the records.
 *
 * @param onNode The records of the same file's run on Node.
 */
export function parseJunit(xml: string, onNode: readonly TestRecord[]): TestRecord[] {
  const reasons = new Map(
    onNode.map((each) => [each.name, each.kind === "skipped" ? each.reason : undefined]),
  );
  const cases = [...xml.matchAll(/<testcase ([^>]*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g)];
  const all = cases.map(([, attributes = "", body = ""]) => {
    const suite = unescapeXml(attributes.match(/\bclassname="([^"]*)"/)?.[1] ?? "");
    const own = unescapeXml(attributes.match(/\bname="([^"]*)"/)?.[1] ?? "");
    // Bun puts the suite's name in classname, Deno the file's.
    const name = suite === "" || /\.m?[jt]s$|^ext:/.test(suite) ? own : `${suite} > ${own}`;
    return toRecord(name, body, reasons.get(name));
  });
  // A failed part of a test fails it; Deno then lists both.
  return all.filter(({ name }) => !all.some((part) => part.name.startsWith(`${name} > `)));
}

function toRecord(name: string, body: string, skip: string | undefined): TestRecord {
  const failure = body.match(/<(?:failure|error)\b[^>]*?(?:\/>|>([\s\S]*?)<\/)/);
  if (failure !== null) return { kind: "failed", name, error: unescapeXml(failure[1] ?? "") };
  if (skip !== undefined) return { kind: "skipped", name, reason: skip };
  if (/<skipped\b/.test(body)) return { kind: "skipped", name, reason: "no reason given" };
  return { kind: "passed", name };
}

function unescapeXml(text: string): string {
  const named: Record<string, string> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };
  return text.replaceAll(
    /&(?:#(\d+)|#x([0-9a-f]+)|(\w+));/gi,
    (whole, decimal, hex, name) =>
      decimal !== undefined
        ? String.fromCodePoint(Number(decimal))
        : hex !== undefined
        ? String.fromCodePoint(parseInt(hex, 16))
        : named[name] ?? whole,
  );
}
