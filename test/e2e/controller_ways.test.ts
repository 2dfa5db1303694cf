import assert from "node:assert/strict";
import { createServer } from "node:net";
import { rmSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";

import { AgentMissingError } from "../../controller/errors.ts";
import type { ChannelEvent } from "../../controller/events.ts";
import { whyNoAgent } from "../support/agent_process.ts";
import { until } from "../support/events.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { requires } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import { type Host, startHost } from "./controller_host.ts";

const skip = whyNoSshd() ?? whyNoAgent();

/** The ways that were tried, in order; `!` behind those that were not there. */
function tried({ events }: Host): string[] {
  const channels = events.filter(({ event }) => event === "channel") as ChannelEvent[];
  return channels.map(({ way, error }) => error === undefined ? way : `${way}!`);
}

async function claimOnce(host: Host): Promise<void> {
  await using session = await host.connect();
  await using _lock = await session.claim("deploy");
}

test("where sshd forbids sockets the bridge is used, and remembered", { skip }, async () => {
  await using host = await startHost({ allowStreamLocal: false });
  await claimOnce(host);
  assert.deepEqual(tried(host), ["streamlocal!", "bridge"]);
  await claimOnce(host);
  assert.deepEqual(tried(host), ["streamlocal!", "bridge", "bridge"]);
});

test("where no agent is, the shell protocol is used, and the result says what is reduced", {
  skip: skip ?? requires("bash", "flock"),
}, async () => {
  await using host = await startHost({ agent: false });
  await using session = await host.connect();
  await using lock = await session.claim("deploy");
  assert.deepEqual(tried(host), ["streamlocal!", "bridge!", "shell"]);
  assert.deepEqual([lock.way, lock.token, session.way], ["shell", undefined, "shell"]);
  assert.ok(lock.reduced.includes("no fencing token"));
  assert.deepEqual(session.reduced, lock.reduced);
});

test("a way that stops working is left for the next, and found again", { skip }, async () => {
  await using host = await startHost();
  await claimOnce(host);
  assert.deepEqual(tried(host), ["streamlocal"]);
  // The agent goes away with its socket; nothing is held, so nobody resumes.
  await using session = await host.connect();
  await (await session.claim("deploy")).release();
  await host.agent?.kill();
  rmSync(host.agent?.dirs.socket as string);
  await until(() => session.way === undefined, { what: "the end of the first way" });
  host.events.length = 0;
  await using next = await session.claim("other");
  assert.ok(next.held);
  // The bridge has started an agent at that socket; from then on it is reached directly again.
  assert.deepEqual(tried(host).at(-1), "bridge");
});

test("a bridge starts the agent that takes a dead one's locks over", { skip }, async () => {
  await using host = await startHost();
  await using session = await host.connect();
  await using lock = await session.claim("deploy");
  const { token, holderPid } = lock;
  await host.agent?.kill();
  await until(() =>
    host.events.find(({ event, message }) => event === "channel" && message.startsWith("resumed"))
  );
  assert.ok(lock.held);
  assert.deepEqual([lock.token, lock.holderPid], [token, holderPid]);
  await using other = await session.claim("other");
  assert.ok(other.held);
});

test("a forced way is the only one that is tried", { skip }, async () => {
  await using host = await startHost({ allowStreamLocal: false });
  await using session = await host.connect({ transport: "streamlocal" });
  await assert.rejects(session.claim("deploy"), (error: AgentMissingError) => {
    assert.ok(error instanceof AgentMissingError);
    assert.deepEqual(error.attempts.map(({ way }) => way), ["streamlocal"]);
    return /^Cannot reach an agent on 127\.0\.0\.1: streamlocal: the host refused/.test(
      error.message,
    );
  });
  // It is tried anew at each claim.
  await assert.rejects(session.claim("deploy"), AgentMissingError);
  await assert.rejects(host.connect({ transport: "carrier pigeon" as "shell" }), TypeError);
});

test(
  "where there is nothing at all, the error names everything that was tried",
  { skip },
  async () => {
    await using host = await startHost({ agent: false, extraConfig: ["ForceCommand /bin/false"] });
    await using session = await host.connect();
    await assert.rejects(session.claim("deploy"), (error: AgentMissingError) => {
      assert.deepEqual(error.attempts.map(({ way }) => way), ["streamlocal", "bridge", "shell"]);
      return error.attempts.every(({ problem }) => problem !== "");
    });
  },
);

test("claims that find out together that a way is missing go on together", { skip }, async () => {
  await using host = await startHost({ allowStreamLocal: false });
  await using session = await host.connect();
  const locks = await Promise.all(["a", "b", "c"].map((name) => session.claim(name)));
  assert.deepEqual(locks.map(({ way }) => way), ["bridge", "bridge", "bridge"]);
  assert.deepEqual(tried(host), ["streamlocal!", "bridge"]);
});

test("a socket behind which nobody answers is passed over, one that answers nonsense is an error", {
  skip,
}, async () => {
  await using host = await startHost();
  await using dir = await makeTempDir();
  for (const [answer, expected] of [["", "shell"], ["nonsense\n", "protocol"]] as const) {
    const path = join(dir.path, `s${answer.length}`);
    const server = createServer((socket) => {
      socket.on("error", () => {});
      socket.once("data", () => socket.end(answer));
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const { connect } = await import("../../controller/connect.ts");
    const session = await connect({ ...host.target, agentSocket: path }, {
      transport: "streamlocal",
      lockDir: host.lockDir,
    });
    const failure = await session.claim("deploy").catch((error) => error);
    if (expected === "shell") assert.ok(failure instanceof AgentMissingError, String(failure));
    else assert.equal(failure.code, expected);
    await session.close();
    await new Promise((resolve) => server.close(resolve));
  }
});

test("a greeting in the login shell's start file disturbs neither the bridge nor the shell way", {
  skip: skip ?? requires("bash", "flock"),
}, async () => {
  await using dir = await makeTempDir();
  const { writeFileSync } = await import("node:fs");
  const rc = join(dir.path, "rc");
  writeFileSync(rc, "echo welcome; echo '{\"jsonrpc\":\"2.0\"}'; printf 'no newline'\n");
  await using host = await startHost({
    allowStreamLocal: false,
    extraConfig: [`ForceCommand . ${rc}; eval "$SSH_ORIGINAL_COMMAND"`],
  });
  for (const transport of ["bridge", "shell"] as const) {
    await using session = await host.connect({ transport });
    await using lock = await session.claim("deploy");
    assert.equal(lock.way, transport);
  }
});
