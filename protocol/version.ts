/**
 * The version of this build; one for controller, agent and protocol documents.
 *
 * @module
 */

declare const __SSHLOCK_VERSION__: string | undefined;
declare const __SSHLOCK_COMMIT__: string | undefined;

/** The version in package.json, or `0.0.0-source` where the code runs without having been built. */
export const VERSION: string = typeof __SSHLOCK_VERSION__ === "string"
  ? __SSHLOCK_VERSION__
  : "0.0.0-source";

/** The commit that was built, with `-dirty` after local changes; `unknown` where that is unknown. */
export const COMMIT: string = typeof __SSHLOCK_COMMIT__ === "string"
  ? __SSHLOCK_COMMIT__
  : "unknown";
