import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A folder of a test's own, removed with all that is in it when it is disposed of. */
export interface TempDir extends AsyncDisposable {
  /** Absolute path, short enough for a unix socket inside it (sun_path has 107 bytes). */
  readonly path: string;
  /** Removes the folder; a second call does nothing. */
  remove(): Promise<void>;
}

/** Makes a folder for sockets, keys and logs, mode 0700. */
export function makeTempDir(label = "test"): Promise<TempDir> {
  return makeDirIn(tmpdir(), label);
}

/** Makes a folder for lock files: on the tmpfs /dev/shm, because the agent refuses other filesystems. */
export function makeLockDir(label = "test"): Promise<TempDir> {
  return makeDirIn("/dev/shm", label);
}

async function makeDirIn(parent: string, label: string): Promise<TempDir> {
  const path = await mkdtemp(join(parent, `sshlock-${label}-`));
  const remove = () => rm(path, { recursive: true, force: true });
  return { path, remove, [Symbol.asyncDispose]: remove };
}
