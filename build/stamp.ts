import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** What a build says about itself. */
export type Stamp = {
  /** The version in package.json. */
  readonly version: string;
  /** The commit that was built, shortened, with `-dirty` after local changes; `unknown` without git. */
  readonly commit: string;
};

/** Reads the version and the commit of the working tree. */
export function readStamp(): Stamp {
  const { version } = JSON.parse(readFileSync("package.json", "utf8"));
  return { version, commit: readCommit() };
}

/** The stamp as constants that esbuild puts into a bundle; `protocol/version.ts` reads them. */
export function stampDefines(stamp: Stamp): Record<string, string> {
  return {
    __SSHLOCK_VERSION__: JSON.stringify(stamp.version),
    __SSHLOCK_COMMIT__: JSON.stringify(stamp.commit),
  };
}

function readCommit(): string {
  try {
    const git = (...args: string[]) =>
      execFileSync("git", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
    const commit = git("rev-parse", "--short=12", "HEAD");
    const dirty = git("status", "--porcelain", "--untracked-files=no") !== "";
    return dirty ? `${commit}-dirty` : commit;
  } catch {
    return "unknown"; // no git, no repository, or no commit yet
  }
}
