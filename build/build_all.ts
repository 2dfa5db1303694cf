import { writeChecksums } from "./checksums.ts";
import { compileAgent } from "./compile.ts";
import { readElfKind } from "./elf.ts";
import { complain, say, step } from "./output.ts";
import { AGENT_BINARY } from "./paths.ts";
import { fetchRuntime } from "./runtimes.ts";
import { readStamp } from "./stamp.ts";
import { type Target, TARGETS } from "./targets.ts";

try {
  await buildTargets();
} catch (error) {
  complain(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}

async function buildTargets(): Promise<void> {
  const stamp = readStamp();
  say(`building the agent of sshlock ${stamp.version} (${stamp.commit}) for all machines`);
  for (const target of TARGETS) {
    const outfile = `${AGENT_BINARY}-linux-${target.name}`;
    const runtime = await step(target.runtimePackage, () => fetchRuntime(target.runtimePackage));
    await step(outfile, () => compileAgent(outfile, stamp, runtime));
    checkKind(outfile, target);
  }
  await step("checksums", writeChecksums);
}

function checkKind(path: string, target: Target): void {
  const { arch, interpreter } = readElfKind(path);
  if (arch === target.arch && interpreter === target.interpreter) return;
  throw new Error(
    `Cannot ship ${path}: it is for ${arch} with ${interpreter}, ` +
      `not for ${target.arch} with ${target.interpreter}`,
  );
}
