import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { MortalSession } from "../crash/mortal_session.ts";
import { type AgentDirs, makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { childExit } from "../support/child.ts";
import { until } from "../support/events.ts";
import { flock } from "../support/flock.ts";
import { isAlive, readStat } from "../support/processes.ts";
import { requires } from "../support/requires.ts";
import { connectRpc, type RpcClient } from "../support/rpc_client.ts";
import { lockPath } from "../support/shell_lock.ts";

// The clients of these tests are one process: a clean-up would take all its children for leftovers.
const MINE = { onEnd: "leave" };

/** Against hanging, in milliseconds: a loaded machine may take so long for what takes a moment. */
const STALL_MS = 90_000;

/** A user that has no part in any of this. */
const NOBODY = 65_534;

interface Lock {
  name: string;
  token: number;
  holderPid: number;
}

// deno-lint-ignore no-explicit-any
type Json = any;

/** What may become of a record's file while no agent runs. */
const SPOILS: Record<string, (path: string) => void> = {
  missing: (path) => rmSync(path),
  empty: (path) => truncateSync(path, 0),
  truncated: (path) => truncateSync(path, 200),
  folder: (path) => {
    rmSync(path);
    mkdirSync(path);
    writeFileSync(join(path, "file"), "");
  },
  list: (path) => writeFileSync(path, "[]"),
  owner: forge((ownership) => Object.assign(ownership, { owner: "mallory", uid: 12 })),
  secret: forge(({ grants }) => grants[0].session.secretHash = "f".repeat(64)),
  token: forge((ownership) => ownership.token = 1),
  marks: forge(({ grants }) => grants[0].session.marks.root = { pid: 4_000_000, startTime: 1 }),
  ending: forge(({ grants }) => grants[0].session.ending = { reason: "broken", detail: "" }),
  nobody: forge((ownership) => ownership.grants = []),
  shared: forge((ownership) => ownership.shared = true),
  parked: forge((ownership) =>
    Object.assign(ownership, { grants: [], parked: { grant: ownership.grants[0], until: 1 } })
  ),
  holder: forge((ownership) => ownership.holder = thisProcess()),
  agent: forge((ownership) => ownership.agent = thisProcess()),
  boot: forge((_, record) => record.bootId = "another"),
  namespace: forge((_, record) => record.pidNamespace = "pid:[1]"),
  doubled: forge((ownership, record) => record.ownerships.push(ownership)),
};

test("records that are missing, damaged or forged change nothing for the next agent", async () => {
  await using made = await makeAgentDirs();
  const { dirs } = made;
  const first = await startAgent({ dirs });
  const [client, other] = [await open(dirs, "a"), await open(dirs, "a")];
  const locks: Lock[] = [];
  for (const name of Object.keys(SPOILS)) {
    locks.push(await claim(client, name));
    await claim(other, name);
  }
  await using mortal = await MortalSession.open(dirs.socket, "dead", 0);
  const records = locks.map(({ name }) => readOwnership(dirs, name));
  await first.kill();
  for (const [name, spoil] of Object.entries(SPOILS)) spoil(recordOf(dirs, name));
  // It says that somebody else's holder is ours.
  writeFileSync(recordOf(dirs, "dead"), readFileSync(recordOf(dirs, "marks")));
  await mortal.die();

  await using second = await startAgent({ dirs });
  assert.deepEqual(await resume(dirs, client), locks);
  assert.deepEqual(await resume(dirs, other), locks);
  await using asking = await second.client("c");
  const status = await asking.request<{ locks: { name: string; holders: Json[] }[] }>("status");
  for (const { name, token } of locks) {
    const holders = status.locks.find((lock) => lock.name === name)?.holders;
    assert.deepEqual(holders?.map((h) => [h.owner, h.token, h.state]), [
      ["a", token, "held"],
      ["a", token, "held"],
    ], name);
  }
  await until(async () => {
    const outcome = await flock(lockPath(dirs.lockDir, "dead"));
    if (outcome.kind !== "held") return false;
    assert.equal(mortal.hasLeftover, false, "no lock is free before its leftovers end");
    await outcome.holder.end();
    return true;
  }, { what: "the end of the dead session's lock", deadlineMs: STALL_MS });
  await until(() => !existsSync(recordOf(dirs, "dead")), {
    what: "the end of its record",
    deadlineMs: STALL_MS,
  });
  const agent = { pid: second.pid, startTime: readStat(second.pid)?.startTicks };
  const now = locks.map(({ name }) => readOwnership(dirs, name));
  assert.deepEqual(now, records.map((record) => ({ ...record, agent })));
  const told = second.events.all.map(({ event }) => event);
  assert.deepEqual(told.filter((e) => e === "holder-unexplained" || e === "record-stale"), []);
});

test("where a holder's copy is damaged the file counts, and with both nothing is done", async () => {
  await using made = await makeAgentDirs();
  const { dirs } = made;
  const first = await startAgent({ dirs });
  const [client, joining] = [await open(dirs, "a"), await open(dirs, "a")];
  const [copy, torn, both] = [
    await claim(client, "copy"),
    await claim(client, "torn"),
    await claim(client, "both"),
  ];
  await claim(joining, "torn");
  assert.equal(readCopy(torn).length, 2, "each slot has been written");
  await first.kill();
  overwrite(copy, "x", 0);
  overwrite(copy, "x", statSync(copyOf(copy)).size);
  // The end of what was written last: the session that joined had had no answer in such a case.
  overwrite(torn, "x", statSync(copyOf(torn)).size - 2);
  rmSync(recordOf(dirs, "torn"));
  overwrite(both, "x", 100);
  truncateSync(recordOf(dirs, "both"), 100);

  await using second = await startAgent({ dirs });
  assert.deepEqual(await resume(dirs, client), [copy, torn]);
  await assert.rejects(resume(dirs, joining));
  const told = second.events.all.filter(({ event }) => event === "holder-unexplained");
  assert.deepEqual(told.map(({ name, pid }) => [name, pid]), [["both", both.holderPid]]);
  assert.ok(isAlive(both.holderPid));
  await using next = await second.client("b");
  await assert.rejects(next.request("claim", { name: "both" }), /foreign holder/);
  // What is damaged is mended.
  await until(() => readCopy(copy).length > 0, { what: "another copy", deadlineMs: STALL_MS });
});

test("nobody else can say whose a lock is", { skip: requires("root", "python3") }, async () => {
  await using made = await makeAgentDirs();
  const { dirs } = made;
  const first = await startAgent({ dirs });
  const client = await open(dirs, "a");
  const { holderPid } = await claim(client, "mine");
  const record = JSON.parse(readCopy({ holderPid })[0]!);
  await first.kill();
  const path = lockPath(dirs.lockDir, "theirs");
  writeFileSync(path, "");
  chmodSync(path, 0o666);
  chmodSync(dirs.lockDir, 0o755);
  record.name = "theirs";
  record.ownerships[0].holder = { pid: 4_000_001, startTime: 4_000_002 };
  const forger = spawn("python3", ["test/fixtures/forge_holder.py", path], {
    argv0: "session-lock-theirs",
    stdio: ["pipe", "pipe", "inherit"],
    uid: NOBODY,
    gid: NOBODY,
  });
  const exit = childExit(forger);
  forger.stdin.end(JSON.stringify(record));
  await new Promise((then) => forger.stdout.once("data", then));
  const pid = forger.pid!;
  const startTime = readStat(pid)!.startTicks;
  // And a file that says the same.
  record.ownerships[0].holder = { pid, startTime };
  writeFileSync(recordOf(dirs, "theirs"), JSON.stringify(record));

  await using second = await startAgent({ dirs });
  const names = (event: string) =>
    second.events.all.filter((each) => each.event === event).map(({ name }) => name);
  assert.deepEqual(names("lock-adopted"), ["mine"]);
  assert.deepEqual(names("record-stale"), ["theirs"]);
  assert.deepEqual(names("holder-unexplained"), ["theirs"]);
  assert.ok(isAlive(pid));
  assert.equal((await flock(path)).kind, "contended");
  forger.kill("SIGKILL");
  await exit;
});

async function open(dirs: AgentDirs, owner: string): Promise<RpcClient & { secret: string }> {
  const client = await connectRpc(dirs.socket);
  const hello = await client.request<{ session: { secret: string } }>("hello", {
    ...{ protocol: 1, owner, session: "process" },
  });
  return Object.assign(client, { secret: hello.session.secret });
}

async function claim(client: RpcClient, name: string): Promise<Lock> {
  const { token, holderPid } = await client.request<Lock & Record<string, unknown>>("claim", {
    ...{ name, ...MINE },
  });
  return { name, token, holderPid };
}

/** The locks that a session finds again when it comes back. */
async function resume(dirs: AgentDirs, { secret }: { secret: string }): Promise<Lock[]> {
  const client = await connectRpc(dirs.socket);
  const { locks } = await client.request<{ locks: Lock[] }>("hello", {
    ...{ protocol: 1, resume: secret },
  });
  return locks.map(({ name, token, holderPid }) => ({ name, token, holderPid }))
    .sort((a, b) => a.token - b.token);
}

function recordOf({ runtimeDir }: AgentDirs, name: string): string {
  return join(runtimeDir, "locks", `${name}.json`);
}

function readOwnership(dirs: AgentDirs, name: string): Json {
  const { ownerships } = JSON.parse(readFileSync(recordOf(dirs, name), "utf8"));
  assert.equal(ownerships.length, 1);
  return ownerships[0];
}

function forge(change: (ownership: Json, record: Json) => void): (path: string) => void {
  return (path) => {
    const record = JSON.parse(readFileSync(path, "utf8"));
    change(record.ownerships[0], record);
    writeFileSync(path, JSON.stringify(record));
  };
}

function thisProcess() {
  return { pid: process.pid, startTime: readStat(process.pid)?.startTicks };
}

function copyOf({ holderPid }: Pick<Lock, "holderPid">): string {
  return `/proc/${holderPid}/fd/0`;
}

/** What stands in the slots of a holder's copy that were written, whole or not. */
function readCopy(lock: Pick<Lock, "holderPid">): string[] {
  const fd = openSync(copyOf(lock), "r");
  try {
    return [0, 2048].flatMap((offset) => {
      const bytes = Buffer.alloc(65_536);
      const text = bytes.toString("utf8", 0, readSync(fd, bytes, 0, bytes.length, offset));
      const body = /^sshlock-record \d+ (\d+) [0-9a-f]{64}\n(.*)/s.exec(text);
      return body === null ? [] : [Buffer.from(body[2]!).toString("utf8", 0, Number(body[1]))];
    });
  } finally {
    closeSync(fd);
  }
}

function overwrite(lock: Pick<Lock, "holderPid">, text: string, offset: number): void {
  const fd = openSync(copyOf(lock), "r+");
  writeSync(fd, text, offset);
  closeSync(fd);
}
