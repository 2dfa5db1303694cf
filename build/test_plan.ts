import type { TestBundle } from "./bundle_tests.ts";
import { findDeno } from "./tools.ts";

/** One run of one test file. */
export type TestRun = {
  readonly bundle: TestBundle;
  /** The runtime that executes the tests themselves. */
  readonly runtime: "node" | "deno" | "bun";
  /** The command of the agent that the tests start; `undefined` when they start none. */
  readonly agent: AgentFlavour | undefined;
  /** What people read: the file, and in brackets what is special about this run. */
  readonly label: string;
};

/** A way to run the agent. */
export type AgentFlavour = { readonly name: string; readonly command: readonly string[] };

/** The agent as it is shipped. */
export const BINARY_AGENT: AgentFlavour = { name: "binary", command: ["dist/sshlock-agent"] };

/** Runs in the order in which they are due; all of a stage may overlap. */
export type TestPlan = { readonly together: TestRun[]; readonly alone: TestRun[] };

/**
 * Files that take ten seconds and more. They begin first, so that none of them is left alone at the end
 * while a processor has nothing to do.
 */
const LONG: readonly string[] = [
  "history/broken_agents.test.ts",
  "model/model.test.ts",
  "fuzz/hostile_connections.test.ts",
  "agent/holder/orphan.test.ts",
  "install/system_install.test.ts",
  "e2e/controller_loss.test.ts",
  "e2e/controller_cli.test.ts",
  "e2e/controller_end.test.ts",
  "install/units.test.ts",
  "demo/demo.test.ts",
  "e2e/controller_exec.test.ts",
];

/**
 * Decides what runs how often.
 *
 * Every file runs on Node. One that starts the agent runs once with the compiled binary and once
 * with `deno run` of the bundle. Files in test/runtimes/ run on Deno and on Bun as well. Files named
 * `*.alone.test.ts` (they measure, or fill something that all share) run after the others, singly.
 *
 * @param patterns Regular expressions; a run is kept when its label matches one. None: all are kept.
 */
export function planTests(bundles: readonly TestBundle[], patterns: readonly string[]): TestPlan {
  const denoAgent: AgentFlavour = {
    name: "deno run",
    command: [findDeno(), "run", "-A", "dist/agent.js"],
  };
  const runs = [
    ...bundles.map((bundle) => run(bundle, "node", bundle.startsAgent ? BINARY_AGENT : undefined)),
    ...bundles.filter((bundle) => bundle.startsAgent).map((bundle) =>
      run(bundle, "node", denoAgent)
    ),
    ...(["deno", "bun"] as const).flatMap((runtime) =>
      bundles.filter(({ name }) => name.startsWith("runtimes/"))
        .map((bundle) => run(bundle, runtime, bundle.startsAgent ? BINARY_AGENT : undefined))
    ),
  ];
  const wanted = patterns.map((pattern) => new RegExp(pattern));
  const kept = runs.filter(({ label }) =>
    wanted.length === 0 || wanted.some((pattern) => pattern.test(label))
  );
  const isAlone = ({ bundle }: TestRun) => bundle.name.endsWith(".alone.test.ts");
  const together = kept.filter((each) => !isAlone(each));
  return { together: longFirst(together), alone: kept.filter(isAlone) };
}

/** The same file under another agent comes later, so that the two do not do the same at the same time. */
function longFirst(runs: readonly TestRun[]): TestRun[] {
  const isLong = ({ bundle: { name } }: TestRun) => LONG.includes(name);
  const place = ({ agent, bundle: { name } }: TestRun) =>
    (agent === undefined || agent === BINARY_AGENT ? 0 : LONG.length) + LONG.indexOf(name);
  const long = runs.filter(isLong).sort((a, b) => place(a) - place(b));
  return [...long, ...runs.filter((each) => !isLong(each))];
}

function run(
  bundle: TestBundle,
  runtime: TestRun["runtime"],
  agent: AgentFlavour | undefined,
): TestRun {
  const notes = [
    ...(runtime === "node" ? [] : [`on ${runtime}`]),
    ...(agent === undefined ? [] : [`agent: ${agent.name}`]),
  ];
  const label = notes.length === 0 ? bundle.name : `${bundle.name} [${notes.join(", ")}]`;
  return { bundle, runtime, agent, label };
}
