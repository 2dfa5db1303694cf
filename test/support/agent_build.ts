import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import type { Plugin } from "esbuild";
import { bundleAgent } from "../../build/bundle.ts";
import { compileAgent } from "../../build/compile.ts";
import { readStamp } from "../../build/stamp.ts";
import { findBun, findDeno, installedVersion } from "../../build/tools.ts";

/** A change of one place in the source of the agent. */
export interface Patch {
  /** The source file, relative to the project's root: `agent/session.ts`. */
  file: string;
  /** Text that occurs exactly once in it. */
  find: string;
  /** What stands there in the build. */
  replace: string;
}

/** What is built. */
export interface AgentBuildOptions {
  /** What the build is called: part of the folder's name, `[a-z0-9-]`. */
  name: string;
  /** Changes of the source; several of one file are made in their order. */
  patches?: readonly Patch[];
  /** Whether the crash points kill or stop the process when the environment says so. */
  crashPoints?: boolean;
  /** `deno` (default) runs the bundle, `binary` compiles it as the product is. */
  engine?: "deno" | "binary";
}

/** A change does not fit the source any longer, so the build would prove nothing. */
export class PatchFailedError extends Error {
  override name = "PatchFailedError";
  /** The change. */
  readonly patch: Patch;

  constructor(patch: Patch, why: string) {
    super(`Cannot patch ${patch.file}: ${why}: ${JSON.stringify(patch.find)}`);
    this.patch = patch;
  }
}

const BUILDS = "dist/test/builds";
const CRASH_POINTS = "agent/crash_points.ts";
const ARMED_CRASH_POINTS = "test/support/armed_crash_points.ts";

/** Age of a build that no test of a running suite can be using any longer, in milliseconds. */
const STALE_MS = 3_600_000;

/**
 * Builds an agent from the source with changes.
 *
 * A build is kept in `dist/test/builds/` and used again for as long as the sources and the changes
 * are the same.
 *
 * @returns The argv that runs it, for SSHLOCK_TEST_AGENT; paths are absolute.
 * @throws {PatchFailedError} A change does not occur exactly once, or its file is not in the agent.
 */
export async function buildAgent(options: AgentBuildOptions): Promise<string[]> {
  const { name, engine = "deno", patches = [] } = options;
  const patched = applyPatches(patches);
  const folder = resolve(BUILDS, `${name}-${hashOf(options, patched)}`);
  const file = join(folder, engine === "deno" ? "agent.js" : "sshlock-agent");
  if (!existsSync(file)) await build(options, patched, file);
  return engine === "deno" ? [findDeno(), "run", "-A", "--no-lock", file] : [file];
}

/** Has {@link agentCommand} name a build for as long as something goes on. */
export async function withAgent(argv: string[], act: () => Promise<void>): Promise<void> {
  const before = process.env.SSHLOCK_TEST_AGENT;
  process.env.SSHLOCK_TEST_AGENT = JSON.stringify(argv);
  try {
    await act();
  } finally {
    if (before === undefined) delete process.env.SSHLOCK_TEST_AGENT;
    else process.env.SSHLOCK_TEST_AGENT = before;
  }
}

/** The changed sources, by path. */
function applyPatches(patches: readonly Patch[]): Map<string, string> {
  const sources = new Map<string, string>();
  for (const patch of patches) {
    const { file, find, replace } = patch;
    if (!existsSync(file)) throw new PatchFailedError(patch, "there is no such file");
    const text = sources.get(file) ?? readFileSync(file, "utf8");
    const count = text.split(find).length - 1;
    if (count !== 1) throw new PatchFailedError(patch, `it occurs ${count} times, not once`);
    sources.set(file, text.replace(find, () => replace));
  }
  return sources;
}

async function build(
  options: AgentBuildOptions,
  patched: Map<string, string>,
  file: string,
): Promise<void> {
  const { name, engine = "deno", crashPoints = false } = options;
  const changed = new Map(patched);
  if (crashPoints) changed.set(CRASH_POINTS, readFileSync(ARMED_CRASH_POINTS, "utf8"));
  const unused = new Set(changed.keys());
  const plugin = replaceSources(changed, unused);
  const stamp = { ...readStamp(), commit: name };
  mkdirSync(BUILDS, { recursive: true });
  removeStale(name);
  const draft = mkdtempSync(resolve(BUILDS, ".draft-"));
  // Agents of other users run it too.
  chmodSync(draft, 0o755);
  try {
    const output = join(draft, file.slice(dirname(file).length + 1));
    if (engine === "deno") await bundleAgent(stamp, output, [plugin]);
    else await compileAgent(output, stamp, findBun(), [plugin]);
    for (const path of unused) {
      const patch = options.patches?.find((patch) => patch.file === path);
      throw new PatchFailedError(
        patch ?? { file: path, find: "", replace: "" },
        "it is no part of the agent",
      );
    }
    keep(draft, dirname(file));
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

/** In one step: another test may be making the same build. */
function keep(draft: string, folder: string): void {
  try {
    renameSync(draft, folder);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOTEMPTY" && code !== "EEXIST") throw error;
  }
}

function replaceSources(sources: Map<string, string>, unused: Set<string>): Plugin {
  const byPath = new Map([...sources].map(([path, text]) => [resolve(path), { path, text }]));
  return {
    name: "replace-sources",
    setup(bundle) {
      bundle.onLoad({ filter: /\.ts$/ }, ({ path }) => {
        const found = byPath.get(path);
        if (found === undefined) return undefined;
        unused.delete(found.path);
        return { contents: found.text, loader: "ts" };
      });
    },
  };
}

/** All that a build is made of; the commit alone changes nothing. */
function hashOf(
  { crashPoints = false, engine = "deno" }: AgentBuildOptions,
  patched: Map<string, string>,
): string {
  const hash = createHash("sha256");
  const add = (...parts: string[]) => hash.update(JSON.stringify(parts));
  add(engine, `${crashPoints}`, readStamp().version);
  add(installedVersion("esbuild"), installedVersion("bun"), installedVersion("deno"));
  const sources = [
    ...["agent", "protocol", "build"].flatMap(listSources),
    ...(crashPoints ? [ARMED_CRASH_POINTS] : []),
  ];
  for (const path of sources) add(path, patched.get(path) ?? readFileSync(path, "utf8"));
  return hash.digest("hex").slice(0, 12);
}

function listSources(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts")).sort().map((file) => join(folder, file));
}

/** Builds of the same name from other sources would pile up. */
function removeStale(name: string): void {
  for (const entry of readdirSync(BUILDS)) {
    const path = join(BUILDS, entry);
    if (!new RegExp(`^${name}-[0-9a-f]{12}$`).test(entry)) continue;
    if (Date.now() - statSync(path).mtimeMs < STALE_MS) continue;
    rmSync(path, { recursive: true, force: true });
  }
}
