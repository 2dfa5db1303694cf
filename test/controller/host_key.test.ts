import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import test from "node:test";
import { promisify } from "node:util";

import { HostKeyError } from "../../controller/errors.ts";
import {
  acceptedKeyType,
  checkHostKey,
  describeHostKey,
  forgetHostKeys,
  type HostKey,
} from "../../controller/host_key.ts";
import { requires } from "../support/requires.ts";
import { makeTempDir } from "../support/temp_dir.ts";

const run = promisify(execFile);
const TARGET = "root@db1:22";

/** A key such as a host shows: only its bytes matter here. */
function keyOf(type: string, body: string, host = "db1"): HostKey {
  const bytes = Buffer.from(`\0\0\0${String.fromCharCode(type.length)}${type}${body}`, "latin1");
  return describeHostKey(host, 22, bytes);
}

const first = keyOf("ssh-ed25519", "first");
const second = keyOf("ssh-ed25519", "second");

test("a fingerprint is what ssh-keygen says", { skip: requires("ssh-keygen") }, async () => {
  await using dir = await makeTempDir();
  const path = join(dir.path, "key");
  await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", path]);
  const [type, base64] = (await readFile(`${path}.pub`, "utf8")).split(" ");
  const { stdout } = await run("ssh-keygen", ["-l", "-f", `${path}.pub`]);
  const key = describeHostKey("db1", 22, Buffer.from(base64 as string, "base64"));
  assert.deepEqual([key.type, key.fingerprint], [type, stdout.split(" ")[1]]);
});

test("a key that nobody vouches for is refused, and named", async () => {
  for (const policy of [{}, { acceptNewHostKeys: false }, { hostFingerprint: undefined }]) {
    await assert.rejects(checkHostKey(policy, first, TARGET), (error: HostKeyError) => {
      assert.equal(error.problem, "not-vouched-for");
      assert.equal(error.fingerprint, first.fingerprint);
      assert.equal(error.keyType, "ssh-ed25519");
      assert.ok(error.message.includes(first.fingerprint));
      return error instanceof HostKeyError;
    });
  }
});

test("hostFingerprint lets in these keys and no others, whatever else would", async () => {
  const others = { acceptNewHostKeys: true, hostVerifier: () => true };
  await checkHostKey({ hostFingerprint: first.fingerprint }, first, TARGET);
  await checkHostKey(
    { hostFingerprint: [second.fingerprint, `${first.fingerprint}=`] },
    first,
    TARGET,
  );
  for (const hostFingerprint of [second.fingerprint, [], "SHA256:"]) {
    const check = checkHostKey({ hostFingerprint, ...others }, first, TARGET);
    await assert.rejects(check, { problem: "changed" });
  }
});

test("hostVerifier has the last word: only true lets a key in", async () => {
  await checkHostKey(
    { hostVerifier: (key) => key.fingerprint === first.fingerprint },
    first,
    TARGET,
  );
  await checkHostKey({ hostVerifier: () => Promise.resolve(true) }, first, TARGET);
  for (const answer of [false, undefined, 1, "yes"]) {
    const hostVerifier = () => answer as boolean;
    const check = checkHostKey({ hostVerifier, acceptNewHostKeys: true }, first, TARGET);
    await assert.rejects(check, { problem: "refused" });
  }
  const failing = { hostVerifier: () => Promise.reject(new Error("no database")) };
  await assert.rejects(checkHostKey(failing, first, TARGET), { message: "no database" });
});

test("acceptNewHostKeys remembers the first key of a host and refuses another", async () => {
  forgetHostKeys();
  const policy = { acceptNewHostKeys: true };
  await checkHostKey(policy, first, TARGET);
  await checkHostKey(policy, first, TARGET);
  assert.equal(acceptedKeyType("db1", 22), "ssh-ed25519");
  for (const key of [second, keyOf("ecdsa-sha2-nistp256", "first")]) {
    await assert.rejects(checkHostKey(policy, key, TARGET), { problem: "changed" });
  }
  await checkHostKey(policy, keyOf("ssh-ed25519", "second", "db2"), TARGET);
  forgetHostKeys();
  await checkHostKey(policy, second, TARGET);
  forgetHostKeys();
});
