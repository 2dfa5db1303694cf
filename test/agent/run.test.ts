import assert from "node:assert/strict";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  type CommandEnd,
  commandLine,
  type CommandOptions,
  runCommand,
  startCommand,
} from "../support/agent_command.ts";
import { type AgentDirs, makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { processesWithLockIn, signalPid } from "../support/processes.ts";

/** Runs a test once with an agent and once without, because run works either way. */
function both(name: string, body: (dirs: AgentDirs) => Promise<void>): void {
  test(`${name} (agent)`, async () => {
    await using agent = await startAgent();
    await body(agent.dirs);
  });
  test(`${name} (no agent)`, async () => {
    await using made = await makeAgentDirs();
    await body(made.dirs);
    // The lock is free at once; the kernel ends its holder in its own time.
    const what = "the end of all holders";
    await until(() => processesWithLockIn(made.dirs.lockDir).length === 0, { what });
  });
}

function run(dirs: AgentDirs, args: string[], options?: CommandOptions): Promise<CommandEnd> {
  return runCommand(dirs, ["run", ...args], options);
}

both("the command's exit code, output and signal are passed on", async (dirs) => {
  const done = await run(dirs, ["x", "sh", "-c", "echo out; echo err >&2; exit 7"]);
  assert.deepEqual([done.code, done.stdout, done.stderr], [7, "out\n", "err\n"]);
  assert.equal((await run(dirs, ["x", "true"])).code, 0);
  assert.equal((await run(dirs, ["x", "sh", "-c", "kill -TERM $$"])).code, 128 + 15);
  assert.equal((await run(dirs, ["x", "sh", "-c", "kill -KILL $$"])).code, 128 + 9);
});

both("options stop at the first operand, and -- ends them", async (dirs) => {
  const script = ["sh", "-c", 'echo "$*"', "0"];
  const after = await run(dirs, ["-n", "x", ...script, "-n", "-w", "--", "--help"]);
  assert.deepEqual([after.code, after.stdout], [0, "-n -w -- --help\n"]);
  assert.equal((await run(dirs, ["-n", "--", "x", ...script, "y"])).stdout, "y\n");
});

both("the command sees name, token and owner", async (dirs) => {
  const print = ["sh", "-c", 'echo "$SSHLOCK_NAME/$SSHLOCK_TOKEN/$SSHLOCK_OWNER"'];
  const tokens: number[] = [];
  for (const owner of ["me", "you"]) {
    const { stdout } = await run(dirs, ["--owner", owner, "--why", "a test", "x", ...print]);
    const [name, token, who] = stdout.trim().split("/");
    assert.deepEqual([name, who], ["x", owner]);
    tokens.push(Number(token));
  }
  assert.ok(tokens[1]! > tokens[0]!);
});

both("a command that is missing exits 127, one that cannot be started 126", async (dirs) => {
  const missing = await run(dirs, ["x", "no-such-command"]);
  assert.equal(missing.code, 127);
  assert.match(missing.stderr, /^sshlock-agent: Cannot run no-such-command: no such command$/m);
  const file = join(dirs.runtimeDir, "plain");
  writeFileSync(file, "echo");
  chmodSync(file, 0o644);
  assert.equal((await run(dirs, ["x", file])).code, 126);
});

both("what is held is refused with -n and after -w, with -E as the exit code", async (dirs) => {
  await using holder = startCommand(dirs, ["run", "--owner", "me", "x", "sh", "-c", "echo; cat"]);
  await holder.out.waitFor(() => true);
  const refused = await run(dirs, ["-n", "x", "true"]);
  assert.equal(refused.code, 124);
  assert.match(refused.stderr, /^sshlock-agent: Cannot claim "x": held by me \(.*\)/);
  const late = await run(dirs, ["-w", "50ms", "-E", "9", "x", "true"]);
  assert.equal(late.code, 9);
  assert.match(late.stderr, /^sshlock-agent: Cannot claim "x" after \d+ ms: held by me /);
  await using waiting = startCommand(dirs, ["run", "x", "echo", "mine"]);
  holder.child.stdin?.end();
  assert.equal((await holder.end).code, 0);
  assert.deepEqual([(await waiting.end).code, (await waiting.end).stdout], [0, "mine\n"]);
});

both("shared runs share, and refuse an exclusive one", async (dirs) => {
  // Without what ties them to the outer one: they are rivals, not part of it.
  const alone = ["env", "-u", "SSHLOCK_LOCKS", "-u", "SSHLOCK_NAME"];
  const inner = (...options: string[]) => [
    ...alone,
    ...commandLine(dirs, ["run", "-n", ...options, "x", "true"]),
  ];
  assert.equal((await run(dirs, ["-s", "x", ...inner("-s")])).code, 0);
  assert.equal((await run(dirs, ["-s", "x", ...inner()])).code, 124);
  assert.equal((await run(dirs, ["x", ...inner("-s")])).code, 124);
});

both("signals reach the command, whose end decides", async (dirs) => {
  const script = "trap 'echo caught; exit 3' TERM; echo up; read -r _";
  await using command = startCommand(dirs, ["run", "x", "sh", "-c", script]);
  await command.out.waitFor((line) => line === "up");
  signalPid(command.pid, "SIGTERM");
  await command.out.waitFor((line) => line === "caught");
  assert.equal((await command.end).code, 3);
});

test("bad usage exits 125 and says what is wrong", async () => {
  await using made = await makeAgentDirs();
  const cases: [args: string[], said: RegExp][] = [
    [["x"], /no command|needs a command|COMMAND/i],
    [[], /name/i],
    [["--bogus", "x", "true"], /Unknown option: --bogus/],
    [["-n", "-w", "1", "x", "true"], /exclude each other/],
    [["-w", "soon", "x", "true"], /Cannot read --wait "soon": it is no duration/],
    [["-E", "999", "x", "true"], /no number from 0 to 255/],
    [["a/b", "true"], /it is no lock name/],
    [["-n", "--takeover", "why", "x", "true"], /--nonblock and --takeover exclude each other/],
    [["--takeover-deadline", "1s", "x", "true"], /--takeover-deadline needs --takeover/],
    [["--takeover", "why", "x", "true"], /Cannot take "x" over: no agent runs/],
  ];
  for (const [args, said] of cases) {
    const { code, stderr } = await run(made.dirs, args);
    assert.equal(code, 125, args.join(" "));
    assert.match(stderr, said);
  }
});
