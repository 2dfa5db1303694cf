/**
 * The agent's socket: whether one listens there, which version, and who may reach it.
 *
 * @module
 */

import { lstatSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { PROTOCOL_VERSION } from "../../protocol/limits.ts";
import type { HelloResult, StatusResult } from "../../protocol/messages.ts";
import { VERSION } from "../../protocol/version.ts";
import { AgentClient, connectToAgent } from "../client.ts";
import { groupName, userName } from "../users.ts";
import { type AgentReport, type Finding, found, type Scene } from "./finding.ts";

/** Time an agent has to answer, in milliseconds. */
const ANSWER_LIMIT_MS = 1_000;

const RESTART = "restart it; locks stay held, and sessions resume";

/**
 * Asks the agent what it is and what it knows.
 *
 * @param sockets Paths to try, in this order.
 */
export async function askAgent(sockets: string[]): Promise<AgentReport> {
  for (const socket of sockets) {
    const connection = await connectToAgent([socket]);
    if (connection.kind === "absent" && socket !== sockets.at(-1)) continue;
    if (connection.kind === "absent") return { kind: "absent", reason: connection.reason };
    const client = new AgentClient(connection.socket);
    const impatience = setTimeout(() => connection.socket.destroy(), ANSWER_LIMIT_MS);
    try {
      const hello = { protocol: PROTOCOL_VERSION, client: `sshlock-agent ${VERSION} doctor` };
      const { agent } = await client.request<HelloResult>("hello", hello);
      const status = await client.request<StatusResult>("status");
      return { kind: "running", socket, version: agent, status };
    } catch (error) {
      return { kind: "broken", socket, reason: (error as Error).message };
    } finally {
      clearTimeout(impatience);
      connection.socket.destroy();
    }
  }
  return { kind: "absent", reason: "no socket is known" };
}

/**
 * Whether an agent runs, in which version, and who may open its socket.
 *
 * @param scene What is known of the host.
 */
export function checkRunningAgent({ agent, uid }: Scene): Finding[] {
  if (agent.kind === "absent") {
    const hint = uid === 0
      ? "systemctl enable --now sshlock-agent.socket, or sshlock-agent serve"
      : "sshlock-agent serve; over SSH, the bridge starts one by itself";
    return [found("agent", "warn", `No agent runs (${agent.reason})`, hint)];
  }
  if (agent.kind === "broken") {
    const what = `Agent on ${agent.socket} does not answer: ${agent.reason}`;
    return [found("agent", "fail", what, RESTART)];
  }
  return [judgeVersion(agent.socket, agent.version), judgeSocket(agent.socket, uid)];
}

function judgeVersion(socket: string, version: string): Finding {
  const what = `Agent on ${socket}: version ${version}`;
  if (version === VERSION) return found("agent", "ok", `${what}, as this program`);
  return found("agent", "warn", `${what}, this program is ${VERSION}`, RESTART);
}

function judgeSocket(socket: string, uid: number): Finding {
  const stat = lstatSync(socket);
  const mode = (stat.mode & 0o777).toString(8).padStart(4, "0");
  const owner = userName(stat.uid) ?? `uid ${stat.uid}`;
  const group = groupName(stat.gid) ?? `gid ${stat.gid}`;
  const what = `Socket ${socket}: mode ${mode}, ${owner}, group ${group}`;
  if ((stat.mode & 0o006) !== 0) {
    const hint = `chmod o= ${socket}, and mend SocketMode= in the unit`;
    return found("agent-socket", "fail", `${what}: every user can claim and release`, hint);
  }
  if (stat.uid !== 0 && stat.uid !== uid) {
    return found("agent-socket", "fail", `${what}: it is another user's agent`, "use --socket");
  }
  const folder = dirname(socket);
  const folderMode = statSync(folder).mode;
  if ((folderMode & 0o002) !== 0) {
    const problem = `${what}; everybody can write to its folder`;
    return found("agent-socket", "fail", problem, `chmod o-w ${folder}`);
  }
  return found("agent-socket", "ok", what);
}
