import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";

/** Where a Debian root is made from. */
export interface Mirror {
  /** The archive, such as `http://deb.debian.org/debian`. */
  readonly url: string;
  /** The release, such as `bookworm`. */
  readonly suite: string;
  /** What apt is told to fetch through, if anything. */
  readonly proxy: string | undefined;
}

const DEFAULT_URL = "http://deb.debian.org/debian";
const DEFAULT_SUITE = "bookworm";

/** The archive that this machine's apt uses for its own release, else Debian's. */
export function findMirror(): Mirror {
  const release = readOrEmpty("/etc/os-release");
  const suite = /^ID=debian$/m.test(release)
    ? /^VERSION_CODENAME=(\w+)$/m.exec(release)?.[1] ?? DEFAULT_SUITE
    : DEFAULT_SUITE;
  const url = sourceTexts().flatMap(readSources)
    .find((source) => source.suites.includes(suite) && source.components.includes("main"))?.url;
  return { url: url ?? DEFAULT_URL, suite, proxy: aptProxy() };
}

interface Source {
  url: string;
  suites: string[];
  components: string[];
}

/** Both forms of sources.list(5): one line a source, and stanzas. */
export function readSources(text: string): Source[] {
  const lines = text.split("\n").filter((line) => !line.startsWith("#"));
  const oneLine = lines.flatMap((line) => {
    const match = /^deb +(?:\[[^\]]*\] +)?(https?:\S+) +(\S+) +(.+)$/.exec(line);
    if (match === null) return [];
    return [{ url: match[1]!, suites: [match[2]!], components: match[3]!.split(/\s+/) }];
  });
  const stanzas = lines.join("\n").split(/\n\s*\n/).flatMap((stanza) => {
    const field = (name: string) =>
      new RegExp(`^${name}: *(.*)$`, "mi").exec(stanza)?.[1]?.split(/\s+/) ?? [];
    const [url] = field("URIs").filter((uri) => /^https?:/.test(uri));
    if (url === undefined || !field("Types").includes("deb")) return [];
    return [{ url, suites: field("Suites"), components: field("Components") }];
  });
  return [...oneLine, ...stanzas];
}

function sourceTexts(): string[] {
  const folder = "/etc/apt/sources.list.d";
  let files: string[] = [];
  try {
    files = readdirSync(folder).filter((name) => /\.(list|sources)$/.test(name)).sort();
  } catch { /* no such folder */ }
  return ["/etc/apt/sources.list", ...files.map((name) => `${folder}/${name}`)].map(readOrEmpty);
}

function aptProxy(): string | undefined {
  try {
    const text = execFileSync("apt-config", ["dump", "Acquire::http::Proxy"], { encoding: "utf8" });
    return /"(http[^"]+)"/.exec(text)?.[1];
  } catch {
    return undefined; // no apt here
  }
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
