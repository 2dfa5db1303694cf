import assert from "node:assert/strict";
import { type CommandOptions, runCommand } from "../support/agent_command.ts";
import type { AgentDirs } from "../support/agent_process.ts";

/** What doctor found, as `--json` prints it. */
export interface Report {
  code: number | null;
  counts: Record<string, number>;
  findings: { id: string; state: string; what: string; hint?: string }[];
}

/** Runs doctor on these folders. */
export async function examine(dirs: AgentDirs, options?: CommandOptions): Promise<Report> {
  const { code, stdout, stderr } = await runCommand(dirs, ["doctor", "--json"], options);
  assert.equal(stderr, "");
  return { code, ...JSON.parse(stdout) };
}

/** Asserts that doctor found this, that it has a hint unless it is fine, and that its exit code fits. */
export function assertFound(
  { code, findings }: Report,
  id: string,
  state: string,
  what: RegExp,
): void {
  const all = findings.filter((finding) => finding.id === id);
  const found = all.find((finding) => finding.state === state && what.test(finding.what));
  assert.ok(found, `no ${state} of ${id} says ${what}, but: ${JSON.stringify(all)}`);
  if (state === "fail") assert.equal(code, 1);
}
