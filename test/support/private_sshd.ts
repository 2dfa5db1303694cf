import { type ChildProcess, execFile, spawn } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync } from "node:fs";
import { chmod, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { userInfo } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { type ChildExit, childExit, eachLine } from "./child.ts";
import { EventLog } from "./events.ts";
import { descendants, killAndConfirm, type ProcessStat, signalPid } from "./processes.ts";
import { findTool, requires } from "./requires.ts";

const run = promisify(execFile);

const LOOPBACK = "127.0.0.1";

/** What a private sshd is started with. */
export interface PrivateSshdOptions {
  /** An empty folder for keys, configuration and log. The server's files go with it. */
  dir: string;
  /** Who logs in; the current user unless told. Another one needs root, a shell and no locked password. */
  user?: string;
  /** Lines of sshd_config(5) that come first, and so win. */
  extraConfig?: string[];
  /** Environment variables that a client may send. */
  acceptEnv?: string[];
  /** The address it listens on; 127.0.0.1 unless told. */
  address?: string;
  /** A program with arguments that starts it in its own place: `["nsenter", "--net=…"]`. It must exec. */
  prefix?: string[];
  /** `false` forbids streamlocal channels, so that only exec remains. */
  allowStreamLocal?: boolean;
}

/** A running OpenSSH server on a free port, with keys that exist for this run alone. */
export interface PrivateSshd extends AsyncDisposable {
  readonly host: string;
  readonly port: number;
  readonly username: string;
  /** The user's private key in OpenSSH format. */
  readonly privateKey: string;
  readonly privateKeyPath: string;
  /** The host's public key, "ssh-ed25519 AAAA…". */
  readonly hostKeyLine: string;
  /** "SHA256:…", as ssh-keygen -l prints it. */
  readonly hostFingerprint: string;
  readonly knownHostsPath: string;
  readonly configPath: string;
  /** The log file, at level VERBOSE. */
  readonly logPath: string;
  /** The listening process. */
  readonly pid: number;
  /** Each line of the log so far. */
  readonly log: EventLog<string>;
  /** Arguments for ssh(1) up to and including the destination: what follows is the remote command. */
  readonly sshArgs: string[];
  /** The live processes below the listener whose program is sshd (sshd-session from OpenSSH 9.8 on). */
  sessions(): ProcessStat[];
  /** Ends the server, its sessions and what runs below them, each by pid. A second call does nothing. */
  stop(): Promise<void>;
}

/** Why no sshd can be started here, for a test's `skip`; `undefined` when one can. */
export function whyNoSshd(): string | undefined {
  return requires("sshd", "ssh-keygen");
}

/**
 * Starts an sshd on a free loopback port and waits until it listens.
 *
 * @throws {Error} sshd is missing, or did not listen; the message has the end of its log.
 * @see sshd_config(5)
 */
export async function startPrivateSshd(options: PrivateSshdOptions): Promise<PrivateSshd> {
  const missing = whyNoSshd();
  if (missing !== undefined) throw new Error(`Cannot start a private sshd: ${missing}`);
  makePrivilegeSeparationDir();
  const keys = await makeKeys(options);
  // Somebody may take the port between our bind and sshd's: then another one.
  for (let triesLeft = 5;; triesLeft--) {
    const port = await findFreePort();
    const server = await launch(options, keys, port);
    if (server !== "port taken") return server;
    if (triesLeft === 0) throw new Error("Cannot start a private sshd: each port was taken");
  }
}

/** sshd refuses to start as root without this folder, which a boot would have made. */
function makePrivilegeSeparationDir(): void {
  if (process.getuid?.() === 0 && !existsSync("/run/sshd")) mkdirSync("/run/sshd", { mode: 0o755 });
}

interface Keys {
  hostKeyPath: string;
  hostKeyLine: string;
  hostFingerprint: string;
  privateKeyPath: string;
  privateKey: string;
  authorizedKeysPath: string;
}

async function makeKeys({ dir }: PrivateSshdOptions): Promise<Keys> {
  const hostKeyPath = join(dir, "host_ed25519");
  const privateKeyPath = join(dir, "user_ed25519");
  for (const path of [hostKeyPath, privateKeyPath]) {
    await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "throw-away", "-f", path]);
  }
  const authorizedKeysPath = join(dir, "authorized_keys");
  await writeFile(authorizedKeysPath, await readFile(`${privateKeyPath}.pub`), { mode: 0o644 });
  // sshd reads authorized_keys as the user who logs in, who may be another one than we are.
  await chmod(dir, 0o755);
  const publicHostKey = (await readFile(`${hostKeyPath}.pub`, "utf8")).split(" ");
  const listing = await run("ssh-keygen", ["-l", "-E", "sha256", "-f", `${hostKeyPath}.pub`]);
  return {
    hostKeyPath,
    hostKeyLine: publicHostKey.slice(0, 2).join(" "),
    hostFingerprint: listing.stdout.split(" ")[1] as string,
    privateKeyPath,
    privateKey: await readFile(privateKeyPath, "utf8"),
    authorizedKeysPath,
  };
}

async function launch(
  options: PrivateSshdOptions,
  keys: Keys,
  port: number,
): Promise<PrivateSshd | "port taken"> {
  const { dir } = options;
  const username = options.user ?? userInfo().username;
  const configPath = join(dir, "sshd_config");
  const logPath = join(dir, "sshd.log");
  const knownHostsPath = join(dir, "known_hosts");
  await writeFile(configPath, sshdConfig(options, keys, port));
  const { address = LOOPBACK, prefix = [] } = options;
  await writeFile(knownHostsPath, `[${address}]:${port} ${keys.hostKeyLine}\n`);

  const [program, ...args] = [...prefix, findTool("sshd") as string, "-D", "-e", "-f", configPath];
  const child = spawn(program as string, args, {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const log = new EventLog<string>();
  const exit = childExit(child);
  exit.then(
    ({ code }) => log.end(`sshd ended with code ${code}`),
    (error) => log.end(String(error)),
  );
  eachLine(child.stderr, (line) => {
    const text = line.replace(/\r$/, "");
    appendIfPossible(logPath, `${text}\n`);
    log.push(text);
  });
  try {
    await log.waitFor((line) => line.startsWith("Server listening on"), { what: "sshd's port" });
  } catch (error) {
    await endTree(child, exit);
    if (log.all.some((line) => line.includes("Address already in use"))) return "port taken";
    throw error;
  }
  const stop = once(() => endTree(child, exit));
  const pid = child.pid as number;
  return {
    ...keys,
    host: address,
    port,
    username,
    knownHostsPath,
    configPath,
    logPath,
    pid,
    log,
    sshArgs: sshArgs(keys, knownHostsPath, port, `${username}@${address}`),
    sessions: () => descendants(pid).filter((stat) => /^sshd/.test(stat.comm)),
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

function sshdConfig(options: PrivateSshdOptions, keys: Keys, port: number): string {
  const lines = [
    ...(options.extraConfig ?? []),
    `ListenAddress ${options.address ?? LOOPBACK}:${port}`,
    `HostKey ${keys.hostKeyPath}`,
    `AuthorizedKeysFile ${keys.authorizedKeysPath}`,
    "AuthenticationMethods publickey",
    "PermitRootLogin prohibit-password",
    "PasswordAuthentication no",
    "KbdInteractiveAuthentication no",
    "UsePAM no",
    "StrictModes no",
    "PidFile none",
    "PrintMotd no",
    "UseDNS no",
    // Tests open many connections at once; the default starts to drop them at 10 unauthenticated ones.
    "MaxStartups 1000",
    "LogLevel VERBOSE",
    `AllowStreamLocalForwarding ${options.allowStreamLocal === false ? "no" : "yes"}`,
  ];
  if (options.acceptEnv !== undefined) lines.push(`AcceptEnv ${options.acceptEnv.join(" ")}`);
  return `${lines.join("\n")}\n`;
}

function sshArgs(keys: Keys, knownHosts: string, port: number, destination: string): string[] {
  const options = [
    "BatchMode=yes",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "StrictHostKeyChecking=yes",
    `UserKnownHostsFile=${knownHosts}`,
    "GlobalKnownHostsFile=none",
    "LogLevel=ERROR",
  ];
  return [
    ...["-F", "none", "-T", "-p", String(port), "-i", keys.privateKeyPath],
    ...options.flatMap((option) => ["-o", option]),
    destination,
  ];
}

async function endTree(child: ChildProcess, exit: Promise<ChildExit>): Promise<void> {
  const pid = child.pid;
  if (pid === undefined) return;
  if (child.exitCode === null && child.signalCode === null) {
    // The stopped listener starts no new session while its sessions are ended. Its dead children stay
    // zombies of it until it is gone, and so their pids cannot be reused meanwhile.
    signalPid(pid, "SIGSTOP");
    for (let below = descendants(pid); below.length > 0; below = descendants(pid)) {
      for (const stat of below) await killAndConfirm(stat.pid);
    }
    signalPid(pid, "SIGKILL");
  }
  await exit.catch(() => {});
}

function findFreePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      const port = typeof address === "object" && address !== null ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}

function once(action: () => Promise<void>): () => Promise<void> {
  let running: Promise<void> | undefined;
  return () => running ??= action();
}

/** The folder may be removed before the last line of the log has come. */
function appendIfPossible(path: string, text: string): void {
  try {
    appendFileSync(path, text);
  } catch { /* nobody reads it any more */ }
}
