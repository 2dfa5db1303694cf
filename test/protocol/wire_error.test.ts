import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { WireError } from "../../protocol/wire_error.ts";

test("an error arrives with its code, message and facts", () => {
  const facts = fc.dictionary(fc.string().filter((key) => key !== "code"), fc.jsonValue());
  fc.assert(fc.property(fc.string(), facts, (message, facts) => {
    const sent = new WireError("contended", message, facts);
    const arrived = WireError.fromWire(JSON.parse(JSON.stringify(sent.toWire())));
    assert.equal(arrived.code, "contended");
    assert.equal(arrived.message, message);
    assert.deepEqual({ ...arrived.facts }, JSON.parse(JSON.stringify({ ...facts })));
  }));
});

test("facts cannot change the code of their error", () => {
  const error = new WireError("limit", "no", { code: "contended" });
  assert.equal(error.toWire().data.code, "limit");
});

test("whatever a peer sends as its error becomes one", () => {
  fc.assert(fc.property(fc.jsonValue(), (sent) => {
    const error = WireError.fromWire(sent);
    assert.ok(error instanceof WireError);
    assert.equal(typeof error.message, "string");
  }));
});

test("the numbers are those of JSON-RPC 2.0, and -32000 for what is sshlock's own", () => {
  const numberOf = (code: WireError["code"]) => new WireError(code, "").toWire().code;
  assert.equal(numberOf("parse-error"), -32700);
  assert.equal(numberOf("line-too-long"), -32700);
  assert.equal(numberOf("invalid-request"), -32600);
  assert.equal(numberOf("unknown-method"), -32601);
  assert.equal(numberOf("bad-params"), -32602);
  assert.equal(numberOf("bad-name"), -32602);
  assert.equal(numberOf("internal"), -32603);
  assert.equal(numberOf("contended"), -32000);
});
