/** A kind of machine that the agent is shipped for. */
export type Target = {
  /** The end of the binary's name: `sshlock-agent-linux-NAME`. */
  readonly name: string;
  readonly arch: "x64" | "arm64";
  /** The dynamic loader that tells glibc from musl. */
  readonly interpreter: string;
  /** The npm package with Bun for this kind; bun's own lock entry pins its version and hash. */
  readonly runtimePackage: string;
};

/**
 * All that `npm run build:all` makes.
 *
 * Bun's x64 runtimes are the ones for processors without AVX2: from 1.4 on, the package for all and
 * the `-baseline` package hold the same file.
 */
export const TARGETS: readonly Target[] = [
  {
    name: "x64",
    arch: "x64",
    interpreter: "/lib64/ld-linux-x86-64.so.2",
    runtimePackage: "@oven/bun-linux-x64",
  },
  {
    name: "x64-musl",
    arch: "x64",
    interpreter: "/lib/ld-musl-x86_64.so.1",
    runtimePackage: "@oven/bun-linux-x64-musl",
  },
  {
    name: "arm64",
    arch: "arm64",
    interpreter: "/lib/ld-linux-aarch64.so.1",
    runtimePackage: "@oven/bun-linux-aarch64",
  },
  {
    name: "arm64-musl",
    arch: "arm64",
    interpreter: "/lib/ld-musl-aarch64.so.1",
    runtimePackage: "@oven/bun-linux-aarch64-musl",
  },
];
