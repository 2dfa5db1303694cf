/**
 * What sshd's settings mean for sessions.
 *
 * @module
 */

import { type Finding, found, type Scene } from "./finding.ts";
import { findTool, lastWords, runTool } from "./tools.ts";

/** Sessions of one connection that a controller may open side by side without a refusal. */
const FEW_SESSIONS = 10;

/**
 * Forwarding, MaxSessions, ClientAlive and ChannelTimeout, as sshd itself resolves them.
 *
 * @param scene What is known of the host.
 */
export async function checkSshdSettings({ uid }: Scene): Promise<Finding[]> {
  const sshd = findTool("sshd");
  if (sshd === undefined) return [found("sshd", "skip", "sshd is not installed here")];
  if (uid !== 0) return [found("sshd", "skip", "sshd's settings: only root can ask (sshd -T)")];
  const end = await runTool(sshd, ["-T"]);
  if (end.code !== 0) {
    return [found("sshd", "skip", `sshd's settings cannot be read: ${lastWords(end)}`)];
  }
  return judgeSshdSettings(end.stdout);
}

/**
 * Findings about one set of settings. Match blocks may change them for single users.
 *
 * @param output What `sshd -T` printed.
 */
export function judgeSshdSettings(output: string): Finding[] {
  const settings = new Map<string, string>();
  for (const line of output.split("\n")) {
    const [name, ...value] = line.trim().split(" ");
    if (name !== undefined && !settings.has(name)) settings.set(name, value.join(" "));
  }
  const get = (name: string, fallback: string) => settings.get(name) ?? fallback;
  return [
    judgeForwarding(get("disableforwarding", "no"), get("allowstreamlocalforwarding", "yes")),
    judgeMaxSessions(Number(get("maxsessions", "10"))),
    judgeClientAlive(
      Number(get("clientaliveinterval", "0")),
      Number(get("clientalivecountmax", "3")),
    ),
    judgeChannelTimeout(get("channeltimeout", "none")),
  ];
}

function judgeForwarding(disabled: string, streamLocal: string): Finding {
  const id = "sshd-forwarding";
  const isOpen = disabled !== "yes" && ["yes", "all", "local"].includes(streamLocal);
  if (isOpen) return found(id, "ok", "sshd forwards unix sockets: claims start no process");
  const setting = disabled === "yes"
    ? "DisableForwarding yes"
    : `AllowStreamLocalForwarding ${streamLocal}`;
  const what = `sshd: ${setting}, so each connection starts a bridge, which is slower`;
  return found(id, "warn", what, "AllowStreamLocalForwarding local in sshd_config");
}

function judgeMaxSessions(count: number): Finding {
  const id = "sshd-max-sessions";
  const what = `sshd: MaxSessions ${count}`;
  if (count >= FEW_SESSIONS) return found(id, "ok", `${what}: commands of one connection at once`);
  const problem = `${what}: a connection that runs more commands at once is refused`;
  return found(id, count === 0 ? "fail" : "warn", problem, "MaxSessions 10 in sshd_config");
}

function judgeClientAlive(intervalS: number, count: number): Finding {
  const id = "sshd-client-alive";
  if (intervalS > 0 && count > 0) {
    // Measured with OpenSSH 9.2: a dead link is given up after twice the nominal time.
    const limit = `${intervalS * count} to ${2 * intervalS * count} s`;
    return found(id, "ok", `sshd: ClientAliveInterval ${intervalS}: dead links end in ${limit}`);
  }
  const what = "sshd: ClientAliveInterval 0, so sessions of dead links stay, with what they run " +
    "and every lock of the shell protocol; locks of the agent end by its own silence limit";
  return found(id, "warn", what, "ClientAliveInterval 15 and ClientAliveCountMax 3");
}

function judgeChannelTimeout(value: string): Finding {
  const id = "sshd-channel-timeout";
  if (value === "none" || value === "") {
    return found(id, "ok", "sshd: no ChannelTimeout closes a quiet channel");
  }
  const what = `sshd: ChannelTimeout ${value} closes quiet channels under a living session`;
  return found(id, "warn", what, "let it be more than 3 s heartbeats apart, or none");
}
