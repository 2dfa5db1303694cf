import assert from "node:assert/strict";
import test from "node:test";

import { CommandFailedError } from "../../controller/command_errors.ts";
import { connectFailure } from "../../controller/connect_failure.ts";
import { AgentMissingError, LockContendedError, LockLostError } from "../../controller/errors.ts";
import { checkTarget, describeTarget } from "../../controller/target.ts";
import type { OwnHolder } from "../../protocol/messages.ts";

const HOLDER: OwnHolder = {
  kind: "own",
  owner: "respirate/42",
  uid: 1000,
  peerPid: 1,
  clientAddress: "10.0.0.9",
  since: 0,
  heldMs: 14_000,
  lastHeardMs: 0,
  holderPid: 2,
  token: 3,
  shared: false,
};

test("each message says action, target and state", () => {
  const contended = { name: "deploy", holder: HOLDER, holderCount: 1, queueLength: 2, waitedMs: 0 };
  assert.equal(
    new LockContendedError("db1", contended).message,
    `Cannot claim "deploy" on db1: held by respirate/42 (uid 1000, 10.0.0.9) for 14 s`,
  );
  const loss = { reason: "silence", detail: "no answer" } as const;
  assert.equal(new LockLostError("db1", "deploy", loss).message, `Lost "deploy" on db1: no answer`);
  const attempts = [{ way: "bridge", problem: "not installed" }] as const;
  assert.equal(
    new AgentMissingError("db1", attempts).message,
    "Cannot reach an agent on db1: bridge: not installed",
  );
  const facts = {
    host: "db1",
    command: "false",
    stdout: "",
    stderr: "a\nb\n",
    exitCode: 1,
    signal: null,
  };
  assert.equal(
    new CommandFailedError(facts).message,
    `Cannot complete "false" on db1: exit code 1 (b)`,
  );
});

test("a failure to connect is told in our words, with its kind", () => {
  const target = { host: "db1", username: "root", privateKey: "KEY" };
  const kinds = [
    [{ code: "ECONNREFUSED" }, "refused"],
    [{ code: "ENOTFOUND" }, "name-not-found"],
    [{ code: "EHOSTUNREACH" }, "no-route"],
    [{ level: "client-authentication", message: "x" }, "authentication"],
    [{ level: "client-timeout", message: "x" }, "timeout"],
    [{ message: "Cannot parse privateKey: bad" }, "authentication"],
    [{ message: "who knows" }, "protocol"],
  ] as const;
  for (const [cause, kind] of kinds) {
    const error = connectFailure(target, cause, false);
    assert.equal(error.kind, kind);
    assert.match(error.message, /^Cannot connect to root@db1:22: /);
    assert.doesNotMatch(error.message, /KEY/);
  }
});

test("a target that cannot work is refused before anything is opened", () => {
  const good = { host: "db1", username: "root" };
  checkTarget(good);
  for (
    const bad of [{ host: "" }, { username: "" }, { port: 0 }, { port: 65_536 }, { port: 1.5 }]
  ) {
    assert.throws(() => checkTarget({ ...good, ...bad }), TypeError);
  }
  assert.equal(describeTarget({ host: "::1", username: "root", port: 2222 }), "root@[::1]:2222");
});
