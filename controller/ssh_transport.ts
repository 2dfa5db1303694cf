/**
 * One SSH connection. The only file that knows ssh2.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { once } from "node:events";
import { connect as connectSocket, type Socket } from "node:net";
import { type Duplex, PassThrough, type Readable, type Writable } from "node:stream";

import ssh2 from "ssh2";
import type { Algorithms, AuthenticationType, Client, ClientChannel, ConnectConfig } from "ssh2";

import { offeredAlgorithms } from "./algorithms.ts";
import { connectFailure } from "./connect_failure.ts";
import { ConnectError } from "./errors.ts";
import { acceptedKeyType, checkHostKey, describeHostKey } from "./host_key.ts";
import { describeTarget, type Target } from "./target.ts";

/** Time between two keepalives of an idle connection, in milliseconds. */
export const KEEPALIVE_MS = 3_000;

/** Unanswered keepalives after which the connection counts as dead: 15 s with the interval above. */
export const KEEPALIVE_COUNT = 5;

/** How a remote process ended. */
export interface RemoteExit {
  /** Exit code; `null` when a signal ended it, or when its end was not told. */
  exitCode: number | null;
  /** The signal that ended it, such as `SIGTERM`. */
  signal: string | null;
}

/** A process on the host. Its output has to be read (or resumed) for `closed` to come. */
export interface RemoteProcess {
  /** Its standard input; `end()` is its end of file. */
  readonly stdin: Writable;
  /** Its standard output. */
  readonly stdout: Readable;
  /** Its standard error. */
  readonly stderr: Readable;
  /** Resolves when the channel is closed and all output was read. Never rejects. */
  readonly closed: Promise<RemoteExit>;
  /**
   * Asks the host to signal the command, `TERM` or `KILL` for example. OpenSSH does not do so in root's
   * sessions, and SSH has no names for `STOP` and `CONT`: those are not sent.
   *
   * @see RFC 4254, section 6.9
   */
  signal(name: string): void;
  /** Closes the channel: the process gets end of file and broken pipes, but no signal. */
  close(): void;
}

/** The host refused to open a channel. */
export class ChannelRefusedError extends Error {
  override name = "ChannelRefusedError";
  /** 1 prohibited, 2 connect failed, 3 unknown type, 4 out of resources. @see RFC 4254, section 5.1 */
  readonly reason: number | undefined;

  /**
   * @param message What the host said.
   * @param reason The reason code.
   */
  constructor(message: string, reason: number | undefined) {
    super(message);
    this.reason = reason;
  }
}

/** Limits of opening a connection. */
export interface TransportOptions {
  /** Time for all of it: name, TCP, key exchange, host key, authentication; in milliseconds. */
  connectTimeoutMs: number;
  /** Time between two keepalives, in milliseconds. */
  keepaliveMs: number;
  /** Gives up. */
  signal?: AbortSignal | undefined;
}

/** An open SSH connection. */
export class SshTransport {
  /** `user@host:port`. */
  readonly name: string;
  /** Resolves when the connection is over: with the first cause, or `undefined` when it was closed from here. */
  readonly closed: Promise<ConnectError | undefined>;
  readonly #client: Client;
  #wasReady = false;
  #isClosing = false;
  #isOver = false;

  private constructor(target: Target, client: Client) {
    this.name = describeTarget(target);
    this.#client = client;
    this.closed = this.#watch(target);
  }

  /**
   * Opens a connection and authenticates.
   *
   * @param target Where to and as whom.
   * @param options Limits.
   * @throws {HostKeyError} Nobody vouches for the host key. Nothing was sent that authenticates.
   * @throws {ConnectError} Anything else; `kind` says what.
   */
  static async open(target: Target, options: TransportOptions): Promise<SshTransport> {
    const { client, socket, refusal } = dial(target, options);
    const transport = new SshTransport(target, client);
    const timeout = new AbortController();
    const timer = setTimeout(() => timeout.abort(), options.connectTimeoutMs);
    const signals = [timeout.signal, options.signal].filter((signal) => signal !== undefined);
    // Its end comes without an error where the host just hangs up.
    const end = transport.closed.then((cause) => Promise.reject(cause));
    try {
      await Promise.race([once(client, "ready", { signal: AbortSignal.any(signals) }), end]);
      transport.#wasReady = true;
      return transport;
    } catch (error) {
      socket.destroy();
      options.signal?.throwIfAborted();
      if (timeout.signal.aborted) throw timedOut(target, options.connectTimeoutMs);
      throw refusal() ?? connectFailure(target, error, false);
    } finally {
      clearTimeout(timer);
      end.catch(() => {});
    }
  }

  /** Whether the connection is still there, as far as this side knows. */
  get isOpen(): boolean {
    return !this.#isOver && !this.#isClosing;
  }

  /** Why the connection is over, once it is. */
  async failure(): Promise<ConnectError> {
    return await this.closed ?? this.#closedHere();
  }

  /**
   * Opens a channel to a unix socket of the host. No process is started there.
   *
   * @param path The socket on the host.
   * @throws {ChannelRefusedError} The host forbids it, or could not connect; it does not say why.
   * @throws {ConnectError} The connection is over.
   */
  openSocket(path: string): Promise<Duplex> {
    return this.#open(
      (done) => this.#client.openssh_forwardOutStreamLocal(path, done),
      (channel) => channel,
    );
  }

  /**
   * Starts a command through the user's login shell.
   *
   * @param command What the shell is to read.
   * @throws {ChannelRefusedError} The host forbids it, or has too many sessions open (MaxSessions).
   * @throws {ConnectError} The connection is over.
   */
  async exec(command: string): Promise<RemoteProcess> {
    return await this.#open((done) => this.#client.exec(command, done), remoteProcess);
  }

  /**
   * Resolves once the host has answered something: any answer is a sign of life.
   *
   * @throws {ConnectError} The connection is over.
   */
  roundTrip(): Promise<void> {
    // Asks to end a forwarding that never was. The refusal is the answer that we want.
    return this.#request((done) => this.#client.unforwardIn("127.0.0.1", 1, () => done()));
  }

  /** Closes the connection and waits for its end; at once when it is over. */
  async close(): Promise<void> {
    this.#isClosing = true;
    this.#client.end();
    // A dead peer never closes its side.
    const impatience = setTimeout(() => this.#client.destroy(), 1_000);
    await this.closed;
    clearTimeout(impatience);
  }

  /** What a channel tells may come in the same packet as its opening, so `take` listens at once. */
  #open<T>(
    start: (done: (error: Error | undefined, channel: ClientChannel) => void) => void,
    take: (channel: ClientChannel) => T,
  ): Promise<T> {
    let taken: T | undefined;
    return this.#request((done) =>
      start((error, channel) => {
        if (error === undefined || error === null) taken = take(channel);
        done(error);
      })
    ).then(() => taken as T);
  }

  #request(start: (done: (error?: Error) => void) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      const fail = (error?: Error & { reason?: unknown }) => {
        if (!this.isOpen) return void this.failure().then(reject);
        const reason = typeof error?.reason === "number" ? error.reason : undefined;
        const said = error?.message.replace(/^\(SSH\) Channel open failure: /, "");
        reject(new ChannelRefusedError(said ?? "refused", reason));
      };
      try {
        if (!this.isOpen) return fail();
        start((error) => error === undefined || error === null ? resolve() : fail(error));
      } catch (error) {
        fail(error as Error);
      }
    });
  }

  #closedHere(): ConnectError {
    return new ConnectError("closed", this.name, `Cannot use ${this.name}: the session is closed`);
  }

  #watch(target: Target): Promise<ConnectError | undefined> {
    let cause: unknown;
    this.#client.on("error", (error) => cause ??= error);
    return new Promise((resolve) => {
      this.#client.on("close", () => {
        this.#isOver = true;
        if (this.#isClosing) return resolve(undefined);
        const reason = cause ?? { code: "EPIPE", message: "closed" };
        resolve(connectFailure(target, reason, this.#wasReady));
      });
    });
  }
}

interface Dialled {
  client: Client;
  socket: Socket;
  /** The error of whoever judged the host key. */
  refusal(): Error | undefined;
}

function dial(target: Target, options: TransportOptions): Dialled {
  const { host, port = 22 } = target;
  const client = new ssh2.Client();
  const socket = connectSocket({ host, port });
  let refusal: Error | undefined;
  let vouchedFor: Buffer | undefined;
  // Not at "ready": each round trip before it would wait 40 ms for a delayed ACK.
  client.once("connect", () => client.setNoDelay(true));
  try {
    client.connect({
      ...credentials(target),
      host,
      port,
      sock: socket,
      username: target.username,
      algorithms: offeredAlgorithms(acceptedKeyType(host, port)) as unknown as Algorithms,
      keepaliveInterval: options.keepaliveMs,
      keepaliveCountMax: KEEPALIVE_COUNT,
      readyTimeout: 0,
      // Dropbear and others know streamlocal channels too; who does not, refuses.
      strictVendor: false,
      hostVerifier: (key: Buffer, answer: (isRight: boolean) => void) => {
        // It is asked again at each new key exchange.
        if (vouchedFor?.equals(key)) return answer(true);
        const hostKey = describeHostKey(host, port, Buffer.from(key));
        checkHostKey(target, hostKey, describeTarget(target)).then(
          () => {
            vouchedFor = Buffer.from(key);
            answer(true);
          },
          (error) => {
            refusal = error instanceof Error ? error : new Error(String(error));
            answer(false);
          },
        );
      },
    });
  } catch (error) {
    socket.destroy();
    throw connectFailure(target, error, false);
  }
  answerHostKeyOffers(client);
  return { client, socket, refusal: () => refusal };
}

/** The parts of ssh2 that nothing public gives: its handlers, and how a packet is written. */
interface Inside {
  _protocol?: {
    _handlers: { GLOBAL_REQUEST?: GlobalRequestHandler };
    _kexinit: unknown;
    _packetRW: {
      write: {
        allocStart: number;
        alloc(length: number): Buffer;
        finalize(packet: Buffer): Buffer;
      };
    };
    _cipher: { encrypt(packet: Buffer): void };
  };
}

type GlobalRequestHandler = (
  protocol: unknown,
  name: string,
  wantReply: boolean,
  data: unknown,
) => void;

/** SSH_MSG_IGNORE of RFC 4253, with an empty text. */
const IGNORE = [2, 0, 0, 0, 0];

/**
 * After authentication a server lists its further host keys, and ssh2 asks for proof of them, of
 * which nothing is made here. Whatever we do not answer at once is acknowledged only after 40 ms, and
 * the server's next packet, the answer to the first channel, waits for that (measured: 44 ms against
 * 3 ms). So the list is answered by a message that asks for no answer.
 */
function answerHostKeyOffers(client: Client): void {
  const protocol = (client as unknown as Inside)._protocol;
  const handle = protocol?._handlers.GLOBAL_REQUEST;
  if (protocol === undefined || handle === undefined) return;
  protocol._handlers.GLOBAL_REQUEST = (from, name, wantReply, data) => {
    if (name !== "hostkeys-00@openssh.com" || wantReply) return handle(from, name, wantReply, data);
    if (protocol._kexinit !== undefined) return;
    const { write } = protocol._packetRW;
    const start = write.allocStart;
    const packet = write.alloc(IGNORE.length);
    packet.set(IGNORE, start);
    protocol._cipher.encrypt(write.finalize(packet));
  };
}

function credentials(target: Target): ConnectConfig {
  const { privateKey, passphrase, password, sshAgent } = target;
  // Without "none", which would cost a round trip to be refused.
  const methods: AuthenticationType[] = [];
  if (privateKey !== undefined) methods.push("publickey");
  if (sshAgent !== undefined) methods.push("agent");
  if (password !== undefined) methods.push("password");
  if (methods.length === 0) methods.push("none");
  const config: ConnectConfig = { authHandler: methods };
  if (privateKey !== undefined) {
    config.privateKey = typeof privateKey === "string" ? privateKey : Buffer.from(privateKey);
  }
  if (passphrase !== undefined) config.passphrase = passphrase;
  if (password !== undefined) config.password = password;
  if (sshAgent !== undefined) config.agent = sshAgent;
  return config;
}

function timedOut(target: Target, connectTimeoutMs: number): ConnectError {
  const name = describeTarget(target);
  return new ConnectError(
    "timeout",
    name,
    `Cannot connect to ${name}: no answer within ${connectTimeoutMs / 1_000} s`,
  );
}

function remoteProcess(channel: ClientChannel): RemoteProcess {
  const exit: RemoteExit = { exitCode: null, signal: null };
  channel.on("exit", (code: number | null, signal?: string) => {
    exit.exitCode = code;
    exit.signal = signal ?? null;
  });
  // A write to a process that has ended already is no failure of the session.
  channel.on("error", () => {});
  // Streams of their own: destroying a channel, as each `for await` does at its end, would close
  // it before the exit status has come.
  const stdout = channel.pipe(new PassThrough());
  const stderr = channel.stderr.pipe(new PassThrough());
  const ends = [channel, stdout, stderr].map((stream) =>
    new Promise<void>((resolve) => stream.once("close", () => resolve()))
  );
  return {
    stdin: channel,
    stdout,
    stderr,
    closed: Promise.all(ends).then(() => exit),
    signal: (name) => sendSignal(channel, name),
    close: () => channel.close(),
  };
}

/** The signals that the SSH protocol has names for (RFC 4254, 6.10): ssh2 throws at any other. */
const SSH_SIGNALS = [
  "ABRT",
  "ALRM",
  "FPE",
  "HUP",
  "ILL",
  "INT",
  "KILL",
  "PIPE",
  "QUIT",
  "SEGV",
  "TERM",
  "USR1",
  "USR2",
];

/** ssh2 drops signals once standard input has ended, though the SSH protocol does not forbid them then. */
function sendSignal(channel: ClientChannel, name: string): void {
  const inside = channel as unknown as {
    outgoing: { id: number; state: string };
    _client: { _protocol: { signal(id: number, name: string): void } };
  };
  const { id, state } = inside.outgoing;
  if (!SSH_SIGNALS.includes(name)) return;
  if (state === "open" || state === "eof") inside._client._protocol.signal(id, name);
}
