import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import test from "node:test";
import { setTimeout as delay } from "node:timers/promises";

import type { Link, LinkEnd } from "../../controller/agent_client.ts";
import { AgentService } from "../../controller/agent_service.ts";
import { AgentError, ProtocolError } from "../../controller/errors.ts";
import { type Loss, ServiceMissingError } from "../../controller/lock_service.ts";
import type { ClaimParams } from "../../protocol/messages.ts";
import { WireError } from "../../protocol/wire_error.ts";

const HELLO = {
  protocol: 1,
  agent: "test",
  host: "h",
  bootId: "b",
  pidNamespace: "n",
  owner: "me",
  heartbeatMs: 3_000,
  giveUpMs: 10_000,
  silenceMs: 15_000,
};
const GRANT = { name: "deploy", token: 7, holderPid: 99, shared: false, waitedMs: 0 };

/** An agent that says what the test tells it to: some answers no real agent gives. */
function fakeAgent(
  open: () => Promise<Link> = () => Promise.reject(new ServiceMissingError("gone")),
) {
  const input = new PassThrough();
  const output = new PassThrough();
  const writes: string[] = [];
  output.on("data", (chunk) => writes.push(String(chunk)));
  let end = (_end: LinkEnd) => {};
  let isClosed = false;
  const link = {
    input,
    output,
    closed: new Promise<LinkEnd>((resolve) => end = resolve),
    close: () => {
      isClosed = true;
      end({ detail: "closed from here", isMissing: true });
    },
  };
  const losses: Loss[] = [];
  const goings: string[] = [];
  let giveUps = 0;
  const service = new AgentService("streamlocal", link, { owner: "me/1" }, {
    open,
    onResumed: (_detail, isNew) => goings.push(isNew ? "new" : "resumed"),
    onGiveUp: () => giveUps++,
  });
  const claim = (signal?: AbortSignal, more: Partial<ClaimParams> = {}) =>
    service.claim({ name: "deploy", ...more }, { signal, onLoss: (loss) => losses.push(loss) });
  const say = (...messages: unknown[]) =>
    input.write(
      messages.map((m) => JSON.stringify({ jsonrpc: "2.0", ...m as object }) + "\n").join(""),
    );
  return {
    service,
    claim,
    say,
    writes,
    losses,
    goings,
    end,
    isClosed: () => isClosed,
    giveUps: () => giveUps,
  };
}

test("hello and the first claim go out in one write", async () => {
  const { claim, say, writes, service } = fakeAgent();
  const granted = claim();
  assert.equal(writes.length, 1);
  const [hello, request] = (writes[0] as string).trim().split("\n").map((line) => JSON.parse(line));
  assert.equal(hello.method, "hello");
  assert.deepEqual([hello.params.protocol, hello.params.owner], [1, "me/1"]);
  assert.deepEqual([request.method, request.params], ["claim", { name: "deploy" }]);
  say({ id: hello.id, result: HELLO }, { id: request.id, result: GRANT });
  const grant = await granted;
  assert.deepEqual([grant.token, grant.holderPid], [7, 99]);
  await service.proven;
});

test("a loss that comes in the same packet as the grant is not overlooked", async () => {
  const { claim, say, losses, end } = fakeAgent();
  const granted = claim();
  const params = { name: "deploy", token: 7, reason: "lock-file-replaced", detail: "gone" };
  say({ id: 1, result: HELLO }, { id: 2, result: GRANT }, { method: "lost", params });
  await granted;
  end({ detail: "closed", isMissing: true });
  assert.deepEqual(losses, [{ reason: "lock-file-replaced", detail: "gone" }]);
});

test("the end of the link loses what is held, and nothing that was released", async () => {
  const { claim, say, losses, end, service } = fakeAgent();
  const granted = claim();
  say({ id: 1, result: HELLO }, { id: 2, result: GRANT });
  const grant = await granted;
  const released = grant.release();
  say({ id: 3, result: { name: "deploy", token: 7, heldMs: 5 } });
  assert.equal(await released, 5);
  const again = claim();
  say({ id: 4, result: GRANT });
  await again;
  end({ detail: "the agent has gone", isMissing: true });
  await service.closed;
  assert.deepEqual(losses, [{ reason: "channel-closed", detail: "the agent has gone" }]);
});

test("a loss that could not be told without a link is told with the refusal to resume", async () => {
  const loss = { reason: "broken", detail: "broken by root: stuck" };
  const error = new WireError("no-session", "it has ended", loss).toWire();
  const [input, output] = [new PassThrough(), new PassThrough()];
  output.once("data", () => input.write(`${JSON.stringify({ jsonrpc: "2.0", id: 1, error })}\n`));
  const next = { input, output, closed: new Promise<LinkEnd>(() => {}), close() {} };
  const { claim, say, losses, end, service } = fakeAgent(() => Promise.resolve(next));
  const granted = claim();
  say({ id: 1, result: { ...HELLO, session } }, { id: 2, result: GRANT });
  await granted;
  end({ detail: "the channel closed", isMissing: false });
  await service.closed;
  assert.deepEqual(losses, [loss]);
});

/** The next link, which is there at the third try, and what the agent at its other end is asked. */
function laterAgent(answers: Record<string, unknown>) {
  const [input, output] = [new PassThrough(), new PassThrough()];
  const asked: string[] = [];
  output.on("data", (chunk) => {
    for (const line of String(chunk).trim().split("\n")) {
      const { id, method } = JSON.parse(line);
      asked.push(method);
      input.write(`${JSON.stringify({ jsonrpc: "2.0", id, result: answers[method] ?? {} })}\n`);
    }
  });
  const link = { input, output, closed: new Promise<LinkEnd>(() => {}), close() {} };
  let tries = 0;
  const open = () => ++tries < 3 ? Promise.reject(new Error("nobody")) : Promise.resolve(link);
  return { open, asked };
}

const session = { id: "s", secret: "secret", kind: "ssh", resumed: false };

test("a release whose link ends is made over the next link", async () => {
  const { open, asked } = laterAgent({
    hello: { ...HELLO, session, locks: [GRANT] },
    release: { name: "deploy", token: 7, heldMs: 12 },
  });
  const { claim, say, losses, end, service } = fakeAgent(open);
  const granted = claim();
  say({ id: 1, result: { ...HELLO, session } }, { id: 2, result: GRANT });
  const released = (await granted).release();
  end({ detail: "the agent was killed", isMissing: false });
  assert.equal(await released, 12);
  assert.deepEqual(asked, ["hello", "ping", "release"]);
  assert.deepEqual(losses, []);
  service.close();
});

test("a lock whose claim was not answered is given back over the next link", async () => {
  const answers = { hello: { ...HELLO, session, locks: [GRANT] }, status: { locks: [] } };
  const { open, asked } = laterAgent(answers);
  const { claim, say, end, service } = fakeAgent(open);
  const claiming = claim();
  say({ id: 1, result: { ...HELLO, session } });
  await service.proven;
  end({ detail: "the agent was killed", isMissing: false });
  await assert.rejects(claiming, { code: "link-closed" });
  // It waits until the session goes on.
  await service.status();
  assert.deepEqual(asked, ["hello", "ping", "release", "status"]);
  service.close();
});

/** Agents in a row, each behind one link, that answer as the test says. */
function nextAgents(answer: (method: string, params: Record<string, unknown>) => unknown) {
  const asked: [string, Record<string, unknown>][] = [];
  const open = () => {
    const [input, output] = [new PassThrough(), new PassThrough()];
    output.on("data", (chunk) => {
      for (const line of String(chunk).trim().split("\n")) {
        const { id, method, params } = JSON.parse(line);
        asked.push([method, params]);
        const said = answer(method, params);
        const outcome = said instanceof WireError ? { error: said.toWire() } : { result: said };
        input.write(`${JSON.stringify({ jsonrpc: "2.0", id, ...outcome })}\n`);
      }
    });
    let close = () => {};
    const closed = new Promise<LinkEnd>((resolve) =>
      close = () => resolve({ detail: "closed from here", isMissing: false })
    );
    return Promise.resolve({ input, output, closed, close });
  };
  return { open, asked };
}

test("a claim that waits is made again at the next agent, with what is left of its time", async () => {
  const { open, asked } = nextAgents((method, { resume }) => {
    if (method === "claim") return GRANT;
    if (method !== "hello") return {};
    return resume === undefined
      ? { ...HELLO, session: { ...session, id: "s2", secret: "secret 2" }, locks: [] }
      : new WireError("no-session", "it has ended");
  });
  const { claim, say, losses, goings, end, service } = fakeAgent(open);
  const waiting = claim(undefined, { waitMs: 60_000 });
  say({ id: 1, result: { ...HELLO, session } });
  await service.proven;
  await delay(5); // so that some of its time is over
  end({ detail: "the agent was killed", isMissing: false });
  const grant = await waiting;
  assert.equal(grant.token, 7);
  assert.ok(grant.waitedMs >= 5, `${grant.waitedMs} ms in all`);
  assert.deepEqual(asked.map(([method, { resume, owner }]) => [method, resume ?? owner]), [
    ...[["hello", "secret"], ["ping", undefined]],
    ...[["hello", "me/1"], ["ping", undefined], ["claim", undefined]],
  ]);
  const leftMs = asked.at(-1)![1].waitMs as number;
  assert.ok(leftMs > 0 && leftMs < 60_000, `${leftMs} ms are left`);
  assert.deepEqual([goings, losses], [["new"], []]);
  service.close();
});

test("what a claim that waits was granted without a word is not given back", async () => {
  const { open, asked } = nextAgents((method) =>
    method === "hello" ? { ...HELLO, session, locks: [GRANT] } : {}
  );
  const { claim, say, goings, end, service } = fakeAgent(open);
  const waiting = claim(undefined, { waitMs: 60_000 });
  say({ id: 1, result: { ...HELLO, session } });
  await service.proven;
  end({ detail: "the channel closed", isMissing: false });
  assert.equal((await waiting).token, 7);
  assert.deepEqual(asked.map(([method]) => method), ["hello", "ping"]);
  assert.deepEqual(goings, ["resumed"]);
  service.close();
});

test("a claim whose time is over, or that is given up, does not wait for the next agent", async () => {
  for (const how of ["time", "abort"]) {
    const { claim, say, end, service } = fakeAgent(() => Promise.reject(new Error("nobody")));
    const controller = new AbortController();
    const waiting = claim(controller.signal, { waitMs: how === "time" ? 50 : 60_000 });
    say({ id: 1, result: { ...HELLO, session } });
    await service.proven;
    end({ detail: "the agent was killed", isMissing: false });
    const reason = new Error("enough");
    if (how === "abort") controller.abort(reason);
    await assert.rejects(waiting, how === "abort" ? reason : { code: "link-closed" });
    service.close();
  }
});

test("a claim at a session that has ended counts no silence", async () => {
  const gone = Object.assign(new Error("the connection has ended"), { name: "ConnectError" });
  const { claim, say, end, service, giveUps } = fakeAgent(() => Promise.reject(gone));
  const granted = claim();
  const times = { heartbeatMs: 10, giveUpMs: 40, silenceMs: 60 };
  say({ id: 1, result: { ...HELLO, ...times, session } }, { id: 2, result: GRANT });
  await granted;
  end({ detail: "the agent was killed", isMissing: false });
  await service.closed;
  await assert.rejects(claim(), { code: "link-closed" });
  await delay(3 * times.giveUpMs);
  assert.equal(giveUps(), 0);
});

test("a link that ends before any answer is a missing agent, after it a lost one", async () => {
  const first = fakeAgent();
  const claiming = first.claim();
  first.end({ detail: "closed", isMissing: true });
  await assert.rejects(claiming, ServiceMissingError);
  const second = fakeAgent();
  const waiting = second.claim();
  second.say({ id: 1, result: HELLO });
  await second.service.proven;
  second.end({ detail: "closed", isMissing: true });
  await assert.rejects(
    waiting,
    (error) => error instanceof AgentError && error.code === "link-closed",
  );
});

test("a refused hello is the error, not what followed from it", async () => {
  const { claim, say } = fakeAgent();
  const claiming = claim();
  const mismatch = new WireError("protocol-mismatch", "no").toWire();
  say({ id: 1, error: mismatch }, { id: 2, error: new WireError("hello-first", "no").toWire() });
  await assert.rejects(claiming, { code: "protocol-mismatch" });
});

test("heartbeat, give-up and silence times in another order are refused", async () => {
  for (
    const times of [{ heartbeatMs: 0 }, { giveUpMs: 3_000 }, { giveUpMs: 15_000 }, {
      silenceMs: 9_000,
    }]
  ) {
    const { claim, say, isClosed } = fakeAgent();
    const claiming = claim();
    say({ id: 1, result: { ...HELLO, ...times } }, { id: 2, result: GRANT });
    await assert.rejects(
      claiming,
      (error) => error instanceof ProtocolError && error.code === "bad-times",
    );
    assert.ok(isClosed());
  }
  const forever = fakeAgent();
  const claiming = forever.claim();
  forever.say({ id: 1, result: { ...HELLO, silenceMs: 0 } }, { id: 2, result: GRANT });
  await claiming;
});

test("what is not the protocol ends the link with an error that says so", async () => {
  const { claim, say, service, isClosed } = fakeAgent();
  const claiming = claim();
  say({ id: 1, result: HELLO });
  await service.proven;
  const other = fakeAgent();
  const theirs = other.claim();
  (other as unknown as { say(m: unknown): void }).say({ id: 1, result: HELLO });
  await other.service.proven;
  other.end({ detail: "x", isMissing: false });
  await assert.rejects(theirs, AgentError);
  say({ id: null, error: new WireError("line-too-long", "too long").toWire() });
  await assert.rejects(
    claiming,
    (error) => error instanceof AgentError && error.code === "line-too-long",
  );
  assert.ok(isClosed());
});

test("an abort takes the claim back and rejects with its reason", async () => {
  const { claim, say, writes } = fakeAgent();
  const controller = new AbortController();
  const claiming = claim(controller.signal);
  say({ id: 1, result: HELLO });
  const reason = new Error("enough");
  controller.abort(reason);
  assert.equal(JSON.parse(writes.at(-1) as string).method, "release");
  say({ id: 2, error: new WireError("cancelled", "taken back").toWire() }, { id: 3, result: {} });
  await assert.rejects(claiming, reason);
});

test("a second claim of the same lock in a session is refused without asking", async () => {
  const { claim, say } = fakeAgent();
  const first = claim();
  await assert.rejects(claim(), { code: "already-claimed" });
  say({ id: 1, result: HELLO }, { id: 2, result: GRANT });
  await first;
});

test("a silent agent costs the lock, with that reason, and ends what waits", async () => {
  const { claim, say, losses, service, isClosed } = fakeAgent();
  const granted = claim();
  say({ id: 1, result: { ...HELLO, heartbeatMs: 10, giveUpMs: 40, silenceMs: 60 } }, {
    id: 2,
    result: GRANT,
  });
  const grant = await granted;
  // The clock does not keep a process alive by itself; the connection would.
  const alive = setInterval(() => {}, 1_000);
  await assert.rejects(grant.release(), (error) => error instanceof AgentError);
  clearInterval(alive);
  await service.closed;
  assert.ok(isClosed());
  assert.deepEqual(losses, []);
  const other = fakeAgent();
  const theirs = other.claim();
  other.say({ id: 1, result: { ...HELLO, heartbeatMs: 10, giveUpMs: 40, silenceMs: 60 } }, {
    id: 2,
    result: GRANT,
  });
  await theirs;
  const keep = setInterval(() => {}, 1_000);
  await other.service.closed;
  clearInterval(keep);
  assert.deepEqual(other.losses.map(({ reason }) => reason), ["silence"]);
});
