import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { describe, test } from "node:test";

const PAGES = [
  "README.md",
  "CONTRIBUTING.md",
  "CHANGELOG.md",
  ...readdirSync("docs").filter((file) => file.endsWith(".md")).map((file) => `docs/${file}`),
];

describe("the pages say what the code does:", () => {
  test("operations.md lists each event of the agent's log, and no other", () => {
    const logged = sources("agent").flatMap((text) => matches(text, /\blog\(\s*"([a-z-]+)"/g));
    const section = sectionOf(read("docs/operations.md"), "Log");
    const listed = matches(section, /^\| `([a-z]+(?:-[a-z]+)+)`/gm);
    assert.deepEqual(listed.sort(), [...new Set(logged)].sort());
  });

  test("operations.md lists each key of the config file, and no other", () => {
    const body = between(read("agent/config.ts"), "const RULES", "};");
    const section = sectionOf(read("docs/operations.md"), "Configuration");
    const listed = matches(section, /^\| `(\w+)`/gm);
    assert.deepEqual(listed.sort(), matches(body, /^ {2}(\w+):/gm).sort());
  });

  test("operations.md lists each event of the library", () => {
    const events = matches(read("controller/events.ts"), /^ {2}event: "([a-z]+)";/gm);
    assert.ok(events.length > 0, "controller/events.ts has events");
    assertMentions("docs/operations.md", events);
  });

  test("README.md lists each error of the library, and no other", () => {
    const exported = matches(read("controller/mod.ts"), /\b([A-Z]\w+Error)\b/g);
    const listed = matches(sectionOf(read("README.md"), "Library"), /^\| `(\w+Error)`/gm);
    assert.deepEqual(listed.sort(), [...new Set(exported)].sort());
  });

  for (const page of ["docs/failures.md", "docs/protocol.md"]) {
    test(`${page} lists each code of the wire`, () => {
      assertMentions(page, membersOf("protocol/wire_error.ts", "WireErrorCode"));
    });
  }

  test("failures.md lists each reason of a lock file, a loss and a connection", () => {
    assertMentions("docs/failures.md", [
      ...membersOf("agent/lock_file.ts", "LockFileReason"),
      ...membersOf("protocol/messages.ts", "LossReason"),
      ...membersOf("controller/errors.ts", "LossCause"),
      ...membersOf("controller/errors.ts", "ConnectFailure"),
    ]);
  });

  test("failures.md lists each exit code of the programs and the holder", () => {
    const section = sectionOf(read("docs/failures.md"), "Exit codes");
    const listed = new Set(matches(section, /\b(\d+)\b/g));
    for (
      const [file, table] of [
        ["agent/cli/exit_codes.ts", "EXIT"],
        ["controller/cli/exit_codes.ts", "EXIT"],
        ["agent/holder/order.ts", "HOLDER_EXIT"],
      ] as const
    ) {
      const body = between(read(file), `export const ${table} = {`, "} as const");
      const codes = matches(body, /^\s+\w+: (\d+),/gm);
      assert.ok(codes.length > 0, `${file} has a table ${table}`);
      assert.deepEqual(codes.filter((code) => !listed.has(code)), [], file);
    }
  });

  test("failures.md lists each finding of doctor, and no other", () => {
    const ids = sources("agent/doctor")
      .flatMap((text) => matches(text, /(?:\b(?:ID|id) = |\bfound\(\s*|^\s+\[)"([a-z-]+)"/gm));
    const section = sectionOf(read("docs/failures.md"), "What `doctor` says");
    const listed = matches(section, /^\| `([a-z-]+)`/gm).filter((word) => word !== "id");
    assert.deepEqual(listed.sort(), [...new Set(ids)].sort());
  });

  for (
    const [program, commands] of [
      ["dist/sshlock-agent", ["run", "list", "status", "watch", "serve", "doctor", "holder"]],
      ["dist/sshlock", ["run", "hold", "status", "watch", "break"]],
    ] as const
  ) {
    test(`commands.md lists each option of ${program}`, () => {
      const page = read("docs/commands.md");
      for (const command of commands) {
        const help = execFileSync(program, [command, "--help"], { encoding: "utf8" });
        const options = matches(help, /^ {2,6}(?:-\w, )?(--[a-z-]+) /gm);
        assert.ok(options.length > 0, `${program} ${command} --help lists options`);
        const missing = options.filter((option) => !isNamed(page, option));
        assert.deepEqual(missing, [], `${program} ${command}`);
      }
    });
  }

  test("architecture.md names only what there is", () => {
    // `path/to/file.ts` (`name`, `name`), or ("name of a test"; "name of a test").
    const page = read("docs/architecture.md").replaceAll(/\s+/g, " ");
    for (const [, path = "", names = ""] of page.matchAll(/`([\w./-]+\.ts)`(?: \(([^)]*)\))?/g)) {
      if (!path.includes("/")) continue;
      assert.ok(existsSync(path), `${path} is there`);
      const text = read(path);
      for (const name of [...matches(names, /`([^`/]+)`/g), ...matches(names, /"([^"]+)"/g)]) {
        assert.ok(text.includes(name), `${path} has ${name}`);
      }
    }
  });
});

test("architecture.md says of each dependency what it is for", () => {
  const { dependencies = {}, devDependencies } = JSON.parse(read("package.json"));
  assertMentions("docs/architecture.md", Object.keys({ ...dependencies, ...devDependencies }));
});

describe("the pages hold together:", () => {
  for (const page of PAGES) {
    test(`each link of ${page} leads somewhere`, () => {
      for (const link of matches(withoutCode(read(page)), /\]\(([^)\s]+)\)/g)) {
        if (/^https?:/.test(link)) continue;
        const [path = "", anchor] = link.split("#");
        const target = path === "" ? page : normalize(join(dirname(page), path));
        assert.ok(existsSync(target), `${page} links to ${link}: there is no ${target}`);
        if (anchor === undefined) continue;
        assert.ok(anchorsOf(read(target)).includes(anchor), `${page} links to ${link}: no heading`);
      }
    });
  }

  test("each page of docs/ can be reached from README.md", () => {
    const readme = read("README.md");
    for (const page of PAGES) assert.ok(page === "README.md" || readme.includes(`(${page}`), page);
  });

  test("README.md has two command lines, and what they start is there", () => {
    const { scripts } = JSON.parse(read("package.json"));
    const lines = matches(read("README.md"), /^ {4}(npm ci && .+)$/gm);
    assert.deepEqual(lines, ["npm ci && npm run demo", "npm ci && npm test"]);
    for (const name of ["demo", "test", "bench", "build", "build:all"]) {
      const entry = /build\/run\.mjs (\S+\.ts)/g.exec(scripts[name] ?? "")?.[1];
      assert.ok(entry !== undefined && existsSync(entry), `npm run ${name} starts ${entry}`);
    }
  });
});

function read(path: string): string {
  return readFileSync(path, "utf8");
}

function sources(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .map((file) => read(join(folder, file)));
}

/** The first group of each match. */
function matches(text: string, pattern: RegExp): string[] {
  return [...text.matchAll(pattern)].map(([, found = ""]) => found);
}

function between(text: string, start: string, end: string): string {
  const from = text.indexOf(start);
  assert.notEqual(from, -1, `there is ${start}`);
  return text.slice(from, text.indexOf(end, from));
}

/** The strings in a union type. */
function membersOf(file: string, type: string): string[] {
  const members = matches(between(read(file), `export type ${type} =`, ";"), /"([a-z-]+)"/g);
  assert.ok(members.length > 0, `${file} has members of ${type}`);
  return members;
}

function assertMentions(page: string, words: readonly string[]): void {
  const text = read(page);
  assert.deepEqual(words.filter((word) => !text.includes(`\`${word}\``)), [], page);
}

/** Whether a page has this option (or its opposite), and not only a longer one that begins the same. */
function isNamed(page: string, option: string): boolean {
  return new RegExp(`--(no-)?${option.slice(2)}(?![a-z-])`).test(page);
}

function sectionOf(page: string, heading: string): string {
  const [, text] = page.split(new RegExp(`^#+ ${heading}$`, "m"));
  assert.ok(text !== undefined, `there is a section ${heading}`);
  return text.split(/^#+ /m)[0] ?? "";
}

function withoutCode(page: string): string {
  return page.replaceAll(/```[\s\S]*?```/g, "").replaceAll(/`[^`\n]*`/g, "");
}

/** Headings as the usual renderers link to them. */
function anchorsOf(page: string): string[] {
  return matches(page.replaceAll(/```[\s\S]*?```/g, ""), /^#+ (.+)$/gm)
    .map((heading) => heading.toLowerCase().replaceAll(/[^\w\- ]/g, "").replaceAll(" ", "-"));
}
