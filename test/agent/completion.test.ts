import assert from "node:assert/strict";
import { test } from "node:test";
import { runCommand } from "../support/agent_command.ts";
import { makeAgentDirs } from "../support/agent_process.ts";

test("completion prints a script for each shell, named after the program", async () => {
  await using made = await makeAgentDirs();
  for (const [shell, start] of [["/bin/bash", "###-begin-"], ["/bin/zsh", "#compdef "]] as const) {
    const { code, stdout, stderr } = await runCommand(made.dirs, ["completion"], {
      env: { SHELL: shell, ZSH_NAME: "" },
    });
    assert.deepEqual([code, stderr], [0, ""]);
    assert.ok(stdout.startsWith(`${start}sshlock-agent`), stdout);
    assert.match(stdout, /sshlock-agent --get-yargs-completions/);
  }
});

test("what the script asks for is answered with the commands", async () => {
  await using made = await makeAgentDirs();
  const asked = ["--get-yargs-completions", "sshlock-agent", ""];
  const { code, stdout } = await runCommand(made.dirs, asked, { env: { SHELL: "/bin/bash" } });
  assert.equal(code, 0);
  const words = stdout.split("\n");
  for (const command of ["list", "status", "run", "break", "completion"]) {
    assert.ok(words.includes(command), `${command} in ${stdout}`);
  }
});

test("a word that is no command is refused", async () => {
  await using made = await makeAgentDirs();
  const { code, stderr } = await runCommand(made.dirs, ["compleet"]);
  assert.equal(code, 125);
  assert.match(stderr, /^sshlock-agent: Unknown command: compleet\nhint: /);
});
