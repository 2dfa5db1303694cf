/**
 * The config file: an agent does not start with one that it cannot follow.
 *
 * @module
 */

import { ConfigError, findConfig } from "../config_file.ts";
import { type Finding, found, type Scene } from "./finding.ts";

const ID = "config-file";

/**
 * Whether the config file can be used by an agent of this user.
 *
 * @param scene What is known of the host.
 */
export function checkConfigFile({ config: place }: Scene): Finding[] {
  try {
    const { path } = findConfig(place);
    const missing = `No config file ${place.path}: an agent of this user has the defaults`;
    return [found(ID, "ok", path === undefined ? missing : `Config file ${path} can be used`)];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const hint = `mend ${place.path}: no agent starts with it; ` +
      `sshlock-agent serve --check-config looks again`;
    return [found(ID, "fail", error.message, hint)];
  }
}
