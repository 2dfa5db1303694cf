import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import test, { after, before } from "node:test";

import {
  CommandFailedError,
  CommandTimeoutError,
  OutputLimitError,
} from "../../controller/command_errors.ts";
import type { CommandEvent } from "../../controller/events.ts";
import { quote, secret, sh } from "../../controller/quote.ts";
import type { Session } from "../../controller/session.ts";
import { until, within } from "../support/events.ts";
import { whyNoSshd } from "../support/private_sshd.ts";
import { isAlive } from "../support/processes.ts";
import { makeTempDir } from "../support/temp_dir.ts";
import { type Host, startHost } from "./controller_host.ts";

const skip = whyNoSshd();
let host: Host;
let session: Session;

before(async () => {
  if (skip !== undefined) return;
  host = await startHost({ agent: false });
  session = await host.connect();
});

after(async () => {
  await session?.close();
  await host?.[Symbol.asyncDispose]();
});

test("exec() gives output, exit code and duration", { skip }, async () => {
  const result = await session.exec("echo out; echo err >&2");
  const { stdout, stderr, exitCode, signal, command } = result;
  assert.deepEqual({ stdout, stderr, exitCode, signal, command }, {
    stdout: "out\n",
    stderr: "err\n",
    exitCode: 0,
    signal: null,
    command: "echo out; echo err >&2",
  });
  assert.ok(result.durationMs >= 0);
});

test("words and template values are data, whatever is in them", { skip }, async () => {
  const text = `$(id) 'x' "y" \\ * ; é\nnew line`;
  assert.equal((await session.exec`printf %s ${text}`).stdout, text);
  assert.equal((await session.exec(["printf", "%s|", text, ""])).stdout, `${text}||`);
  assert.equal((await session.exec(sh`printf '%s,' ${["a b", 3]}`, {})).stdout, "a b,3,");
  assert.equal((await session.exec(`printf %s ${quote(text)}`)).stdout, text);
});

test("a failed command is an error with all that is known of it", { skip }, async () => {
  await assert.rejects(session.exec("echo a; echo b >&2; exit 7"), (error: CommandFailedError) => {
    assert.ok(error instanceof CommandFailedError);
    const { stdout, stderr, exitCode, signal, host: name } = error;
    assert.deepEqual([stdout, stderr, exitCode, signal, name], [
      "a\n",
      "b\n",
      7,
      null,
      "127.0.0.1",
    ]);
    return /exit code 7 \(b\)$/.test(error.message);
  });
  await assert.rejects(session.exec("kill -s USR1 $$"), { exitCode: null, signal: "SIGUSR1" });
  const result = await session.exec("exit 7", { check: false });
  assert.equal(result.exitCode, 7);
  assert.equal((await session.exec("kill -9 $$", { check: false })).signal, "SIGKILL");
});

test("standard input is empty, text, bytes, or a stream", { skip }, async () => {
  assert.equal((await session.exec("cat; echo end")).stdout, "end\n");
  assert.equal((await session.exec("cat", { stdin: "héllo" })).stdout, "héllo");
  const bytes = new Uint8Array([0, 255, 10, 13, 128]);
  const same = await session.exec("cat", { stdin: bytes, encoding: "buffer" });
  assert.deepEqual(new Uint8Array(same.stdout), bytes);
  async function* lines() {
    yield "one\n";
    yield Buffer.from("two\n");
  }
  assert.equal((await session.exec("cat", { stdin: lines() })).stdout, "one\ntwo\n");
});

test("megabytes go through in both directions unchanged", { skip }, async () => {
  await using dir = await makeTempDir();
  const bytes = randomBytes(9_000_000);
  const path = join(dir.path, "big");
  await writeFile(path, bytes);
  const copy = await session.exec("cat", { stdin: createReadStream(path), encoding: "buffer" });
  const digest = (data: Uint8Array) => createHash("sha256").update(data).digest("hex");
  assert.equal(digest(copy.stdout), digest(bytes));
});

test("a command that does not read its input to the end is no failure", { skip }, async () => {
  const endless = Readable.from((function* () {
    for (;;) yield Buffer.alloc(65_536, "x");
  })());
  assert.equal((await within(session.exec("head -c 3", { stdin: endless }))).stdout, "xxx");
  assert.equal((await session.exec("true", { stdin: Buffer.alloc(5_000_000) })).exitCode, 0);
});

test("an input that fails ends the command with its error", { skip }, async () => {
  const failing = Readable.from((function* () {
    yield "a";
    throw new Error("disk gone");
  })());
  await assert.rejects(within(session.exec("cat", { stdin: failing })), { message: "disk gone" });
});

test("output can be taken as it comes, and reading waits for the taker", { skip }, async () => {
  const pieces: string[] = [];
  let isBusy = false;
  const result = await session.exec("for i in 1 2 3; do echo $i; sleep 0.02; done; echo é >&2", {
    onStdout: async (chunk) => {
      assert.ok(!isBusy);
      isBusy = true;
      await new Promise((resolve) => setImmediate(resolve));
      pieces.push(String(chunk));
      isBusy = false;
    },
    onStderr: (chunk) => void pieces.push(String(chunk)),
  });
  assert.equal(pieces.filter((piece) => piece !== "é\n").join(""), "1\n2\n3\n");
  assert.ok(pieces.includes("é\n"));
  assert.deepEqual([result.stdout, result.stderr], ["", ""]);
  const bytes: unknown[] = [];
  await session.exec("echo x", { encoding: "buffer", onStdout: (chunk) => void bytes.push(chunk) });
  assert.ok(bytes[0] instanceof Uint8Array);
  const failing = session.exec("echo x; exec sleep 60", {
    onStdout: () => {
      throw new Error("terminal gone");
    },
    killAfterMs: 50,
  });
  await assert.rejects(within(failing), { message: "terminal gone" });
});

test("a character that is cut between two packets is not torn", { skip }, async () => {
  const pieces: string[] = [];
  const command = String.raw`printf '\303'; sleep 0.1; printf '\251'; printf '\342' >&2`;
  const { stderr } = await session.exec(command, {
    onStdout: (chunk) => void pieces.push(String(chunk)),
  });
  assert.equal(pieces.join(""), "é");
  assert.equal(stderr, "\ufffd");
});

test("a timeout ends the remote command and all of its group", { skip }, async () => {
  const pids: string[] = [];
  const running = session.exec("echo $$; sleep 60 & echo $!; echo say >&2; wait", {
    timeoutMs: 800,
    onStdout: (chunk) => void pids.push(...String(chunk).trim().split("\n")),
  });
  await assert.rejects(within(running), (error: CommandTimeoutError) => {
    assert.ok(error instanceof CommandTimeoutError);
    assert.equal(error.timeoutMs, 800);
    // The line that tells the pid was taken out.
    assert.equal(error.stderr, "say\n");
    return true;
  });
  assert.equal(pids.length, 2);
  await until(() => !pids.map(Number).some(isAlive), { what: "the end of both processes" });
});

test("a command that ignores TERM is sent KILL", { skip }, async () => {
  let pid = 0;
  const running = session.exec(`trap '' TERM; echo $$; while :; do sleep 0.05; done`, {
    timeoutMs: 500,
    killAfterMs: 50,
    onStdout: (chunk) => void (pid = Number(chunk)),
  });
  await assert.rejects(within(running), { name: "CommandTimeoutError", signal: "SIGKILL" });
  await until(() => !isAlive(pid), { what: `the end of ${pid}` });
});

test("an abort ends the command with the signal's reason", { skip }, async () => {
  const controller = new AbortController();
  const reason = new Error("enough");
  let pid = 0;
  const running = session.exec("echo $$; exec sleep 60", {
    signal: controller.signal,
    onStdout: (chunk) => {
      pid = Number(chunk);
      controller.abort(reason);
    },
  });
  await assert.rejects(within(running), reason);
  await until(() => !isAlive(pid), { what: `the end of ${pid}` });
  await assert.rejects(session.exec("true", { signal: controller.signal }), reason);
});

test("output beyond the limit ends the command", { skip }, async () => {
  const running = session.exec("yes", { maxOutputBytes: 1_000, killAfterMs: 50 });
  await assert.rejects(within(running), (error: OutputLimitError) => {
    assert.ok(error instanceof OutputLimitError);
    return error.stdout.length === 1_000 && error.maxOutputBytes === 1_000;
  });
  const { stdout } = await session.exec("yes | head -c 1000", { maxOutputBytes: 1_000 });
  assert.equal(stdout.length, 1_000);
});

test("spawn() hands out the streams of a command", { skip }, async () => {
  const process = await session.spawn(["cat"]);
  process.stderr.resume();
  process.stdin.write("ping\n");
  const [chunk] = await once(process.stdout, "data");
  assert.equal(String(chunk), "ping\n");
  process.stdin.end();
  assert.deepEqual(await within(process.closed), { exitCode: 0, signal: null });
  let text = "";
  const other = await session.spawn("echo a; echo b");
  other.stdin.end();
  other.stderr.resume();
  for await (const piece of other.stdout) text += piece;
  assert.equal(text, "a\nb\n");
  assert.equal((await other.closed).exitCode, 0);
});

test("more commands at a time than the host allows: its MaxSessions is an error, not a hang", {
  skip,
}, async () => {
  const runs = Array.from({ length: 30 }, () => session.exec("sleep 0.1", { check: false }));
  const results = await within(Promise.allSettled(runs), { deadlineMs: 30_000 });
  const refused = results.filter((result) => result.status === "rejected");
  assert.ok(refused.length > 0 && refused.length < 30, `${refused.length} were refused`);
  assert.ok(refused.every(({ reason }) => (reason as Error).name === "ChannelRefusedError"));
});

test("each command is one event, and no event or error ever shows a secret", { skip }, async () => {
  host.events.length = 0;
  const failing = session.exec(sh`echo ${secret("hunter2")} >/dev/null; exit 3`, {
    stdin: "s3cret-in",
  });
  const error = await failing.catch((error) => error);
  await session.exec("cat >/dev/null", { stdin: "s3cret-in" });
  const events = host.events as CommandEvent[];
  assert.deepEqual(events.map(({ event, exit_code }) => [event, exit_code]), [
    ["command", 3],
    ["command", 0],
  ]);
  assert.equal(events[0]?.command, "echo '***' >/dev/null; exit 3");
  assert.ok((events[0]?.durationMs as number) > 0);
  const all = JSON.stringify([host.events, { ...error }, error.message, error.stack]);
  assert.doesNotMatch(all, /hunter2|s3cret-in|PRIVATE KEY/);
});
