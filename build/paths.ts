/**
 * Where the build reads and writes, relative to the project's root (the working directory of every
 * program that build/run.mjs starts).
 */

/** Downloaded runtimes and bundled build programs; removed with node_modules. */
export const CACHE_DIR = "node_modules/.cache/sshlock";

/** Everything that is built. */
export const DIST_DIR = "dist";

/** The controller library, as one module. */
export const CONTROLLER_BUNDLE = "dist/controller/mod.js";

/** The people's CLI, a Node program. */
export const CLI_BUNDLE = "dist/sshlock";

/** The agent as one module, for `deno run -A` and for Bun. */
export const AGENT_BUNDLE = "dist/agent.js";

/** The agent as a single binary for this machine. */
export const AGENT_BINARY = "dist/sshlock-agent";

/** The agent as a single binary made by `deno compile`. */
export const AGENT_DENO_BINARY = "dist/sshlock-agent-deno";

/** The holder image for this machine; `-x64` and `-arm64` are beside it. */
export const HOLDER_IMAGE = "dist/sshlock-holder";

/** SHA-256 of each file that is installed on a server, in the format of sha256sum(1). */
export const CHECKSUMS = "dist/SHA256SUMS";

/** The bundled tests. */
export const TEST_DIR = "dist/test";

/** The licences of the npm packages that are part of the bundles. */
export const LICENCES = "dist/THIRD_PARTY_LICENSES";
