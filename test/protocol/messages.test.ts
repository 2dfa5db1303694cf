import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MAX_ID_LENGTH, MAX_PURPOSE_LENGTH, MAX_WAIT_MS } from "../../protocol/limits.ts";
import {
  describeHolder,
  describeMs,
  readClaim,
  readHello,
  readId,
  readRequest,
  readSelection,
  readSignal,
  readStatus,
} from "../../protocol/messages.ts";
import { WireError } from "../../protocol/wire_error.ts";

test("any JSON value is a request or is refused with invalid-request or bad-params", () => {
  const like = fc.record({
    jsonrpc: fc.constantFrom("2.0", "1.0", 2),
    id: fc.jsonValue(),
    method: fc.oneof(fc.string(), fc.jsonValue()),
    params: fc.jsonValue(),
  }, { requiredKeys: [] });
  fc.assert(fc.property(fc.oneof(fc.jsonValue(), like), (message) => {
    const request = outcomeOf(() => readRequest(message));
    if (request instanceof WireError) {
      assert.ok(["invalid-request", "bad-params"].includes(request.code));
      assert.ok(request.message.length < 400);
    }
    const id = readId(message);
    assert.ok(id === null || typeof id === "string" || Number.isFinite(id));
  }));
});

test("a selection of processes has a pid, a tree and a mark, each of its type", () => {
  assert.deepEqual(readSelection("signal", {}), {});
  const whole = { pid: 7, tree: true, mark: "ab12" };
  assert.deepEqual(readSelection("signal", { ...whole, other: 1 }), whole);
  assert.deepEqual(readSignal({ signal: "SIGINT", ...whole }).selection, whole);
  for (
    const [field, value] of [["pid", 1.5], ["pid", "7"], ["tree", 1], ["mark", 7], ["mark", ""]]
  ) {
    const refused = outcomeOf(() => readSelection("signal", { [field as string]: value }));
    assert.deepEqual([(refused as WireError).code, (refused as WireError).facts], [
      "bad-params",
      { field },
    ]);
  }
});

test("an id is text of a bounded length, a finite number, or null", () => {
  const ask = (id: unknown) => outcomeOf(() => readRequest({ jsonrpc: "2.0", id, method: "ping" }));
  for (const id of ["", "a".repeat(MAX_ID_LENGTH), 0, -1.5, 2 ** 60, null, undefined]) {
    assert.ok(!(ask(id) instanceof WireError), String(id));
  }
  for (const id of ["a".repeat(MAX_ID_LENGTH + 1), JSON.parse("1e999"), [], {}, true]) {
    assert.equal((ask(id) as WireError).code, "invalid-request");
    assert.equal(readId({ id }), null);
  }
});

test("the parameters of hello, claim and status are taken as they are or refused by field", () => {
  const params = fc.dictionary(
    fc.constantFrom(
      ...["protocol", "client", "owner", "silenceMs", "name", "shared", "waitMs", "purpose"],
      ...["after", "__proto__", "constructor"],
    ),
    fc.oneof(fc.jsonValue(), fc.constantFrom<unknown>("a", 1, true, 0, -1, 1e300, "\u001b[2J")),
  );
  fc.assert(fc.property(params, (params) => {
    for (const read of [readHello, readClaim, (p: typeof params) => readStatus("show", p)]) {
      const outcome = outcomeOf(() => read(params));
      if (outcome instanceof WireError) assert.match(outcome.code, /^bad-(params|name)$/);
    }
  }));
});

test("limits of claim: the longest is taken, one more is refused", () => {
  const claim = (more: object) => outcomeOf(() => readClaim({ name: "a", ...more }));
  assert.ok(
    !(claim({ waitMs: MAX_WAIT_MS, purpose: "p".repeat(MAX_PURPOSE_LENGTH) }) instanceof
      WireError),
  );
  const wrong = [
    { waitMs: MAX_WAIT_MS + 1 },
    { waitMs: -1 },
    { waitMs: "5" },
    { purpose: "p".repeat(MAX_PURPOSE_LENGTH + 1) },
    { purpose: "" },
    { purpose: "two\nlines" },
    { shared: 1 },
  ];
  for (const more of wrong) {
    const error = claim(more) as WireError;
    assert.equal(error.code, "bad-params");
    assert.equal(error.facts.field, Object.keys(more)[0]);
  }
  assert.equal((claim({ name: "a/b" }) as WireError).code, "bad-name");
  const deep = JSON.parse("[".repeat(20_000) + "]".repeat(20_000));
  assert.equal((claim({ name: deep }) as WireError).code, "bad-name");
});

test("a key called __proto__ changes nothing", () => {
  const message = JSON.parse(
    '{"jsonrpc":"2.0","id":1,"method":"claim","params":{"__proto__":{"name":"a"}}}',
  );
  const { params } = readRequest(message);
  assert.equal((outcomeOf(() => readClaim(params)) as WireError).code, "bad-name");
  assert.equal(({} as Record<string, unknown>).name, undefined);
});

test("holders and durations are described in words", () => {
  assert.equal(describeMs(999), "999 ms");
  assert.equal(describeMs(14_000), "14 s");
  assert.equal(describeMs(180_000), "3 min");
  assert.equal(describeMs(7_200_000), "2 h");
  assert.match(describeHolder(undefined), /has just let go/);
  assert.equal(
    describeHolder({ kind: "foreign", pid: 7, uid: 0, command: "sleep infinity" }),
    "held by a foreign holder (pid 7, uid 0, sleep infinity)",
  );
});

/** What was returned, or the WireError that was thrown; anything else that is thrown fails the test. */
function outcomeOf(read: () => unknown): unknown {
  try {
    return read();
  } catch (error) {
    if (error instanceof WireError) return error;
    throw error;
  }
}
