import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";

/** A key pair that exists for one test run. */
export interface UserKey {
  /** The private key in OpenSSH format. */
  readonly privateKey: string;
  /** The line for authorized_keys. */
  readonly publicKey: string;
  /** The file of the private key. */
  readonly path: string;
}

/** Makes a key pair in a folder. */
export function makeUserKey(folder: string): UserKey {
  const path = join(folder, "user_ed25519");
  execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "throw-away", "-f", path]);
  return {
    path,
    privateKey: readFileSync(path, "utf8"),
    publicKey: readFileSync(`${path}.pub`, "utf8"),
  };
}
