import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import fc from "fast-check";
import { encodeMessage, MessageDecoder } from "../../protocol/framing.ts";
import { MAX_LINE_BYTES } from "../../protocol/limits.ts";
import { WireError } from "../../protocol/wire_error.ts";

test("any split of a byte stream gives the same messages", () => {
  const stream = fc.array(fc.oneof(fc.jsonValue(), fc.string({ unit: "binary" })), {
    minLength: 1,
  });
  const cuts = fc.array(fc.nat(400), { maxLength: 40 });
  fc.assert(fc.property(stream, cuts, (messages, cuts) => {
    const bytes = Buffer.from(messages.map(encodeMessage).join(""));
    const whole = [...new MessageDecoder().decode(bytes)];
    assert.deepEqual(whole, messages.map((message) => JSON.parse(JSON.stringify(message))));
    assert.deepEqual(decodeInPieces(bytes, cuts), whole);
    assert.deepEqual(decodeInPieces(bytes, [1]), whole);
  }));
});

test("random bytes give messages or a parse-error, never anything else", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
    try {
      decodeInPieces(Buffer.from(bytes), [7]);
    } catch (error) {
      assert.equal((error as WireError).code, "parse-error");
    }
  }));
});

for (const piece of [1, 63, 4096, MAX_LINE_BYTES * 2]) {
  test(`a line of exactly the limit is read, a byte more is not (${piece} bytes at a time)`, () => {
    const line = (bytes: number) => Buffer.from(JSON.stringify("x".repeat(bytes - 3)) + "\n");
    assert.equal(line(MAX_LINE_BYTES).length, MAX_LINE_BYTES);
    assert.equal(decodeInPieces(line(MAX_LINE_BYTES - 1), [piece]).length, 1);
    assert.equal(decodeInPieces(line(MAX_LINE_BYTES), [piece]).length, 1);
    const tooLong = () => decodeInPieces(line(MAX_LINE_BYTES + 1), [piece]);
    assert.throws(tooLong, (error: WireError) => error.code === "line-too-long");
  });
}

test("a line that never ends is refused before its newline", () => {
  const decoder = new MessageDecoder();
  const chunk = Buffer.alloc(1024, "x");
  assert.throws(() => {
    for (let sent = 0; sent <= MAX_LINE_BYTES; sent += chunk.length) [...decoder.decode(chunk)];
  }, (error: WireError) => error.code === "line-too-long");
  assert.ok(decoder.pendingBytes < MAX_LINE_BYTES);
});

test("empty lines are skipped; invalid UTF-8 and deep nesting end in a parse-error or a message", () => {
  assert.deepEqual([...new MessageDecoder().decode(Buffer.from("\n\n1\n\n"))], [1]);
  const invalid = Buffer.from([0x22, 0xff, 0xfe, 0x22, 0x0a]);
  assert.throws(
    () => [...new MessageDecoder().decode(invalid)],
    (error: WireError) => error.code === "parse-error",
  );
  const open = Buffer.from("[".repeat(60_000) + "\n");
  assert.throws(
    () => [...new MessageDecoder().decode(open)],
    (error: WireError) => error.code === "parse-error",
  );
});

test("encodeMessage() counts bytes, not characters", () => {
  const text = (bytes: number) => "€".repeat(Math.floor((bytes - 3) / 3));
  const longest = text(MAX_LINE_BYTES);
  assert.ok(Buffer.byteLength(encodeMessage(longest)) <= MAX_LINE_BYTES);
  assert.throws(
    () => encodeMessage(longest + "€"),
    (error: WireError) => error.code === "line-too-long",
  );
});

/** Feeds the bytes in pieces whose sizes come from `sizes` in turn. */
function decodeInPieces(bytes: Uint8Array, sizes: number[]): unknown[] {
  const decoder = new MessageDecoder();
  const messages: unknown[] = [];
  for (let start = 0, turn = 0; start < bytes.length; turn++) {
    const size = Math.max(1, sizes[turn % Math.max(1, sizes.length)] ?? bytes.length);
    messages.push(...decoder.decode(bytes.subarray(start, start + size)));
    start += size;
  }
  assert.equal(decoder.pendingBytes, bytes.at(-1) === 0x0a ? 0 : decoder.pendingBytes);
  return messages;
}
