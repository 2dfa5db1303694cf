import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import {
  encodeOrder,
  type HolderArch,
  holderImage,
  type Order,
  SPARE_ARGV0,
} from "../../../agent/holder/image.ts";

/** What send_order.py takes; see there. */
export interface HolderOptions {
  readonly command: readonly string[];
  readonly lock: string;
  readonly order?: Uint8Array;
  readonly fds?: number;
  readonly leak?: number;
  readonly nofile?: number;
  readonly no_close_range?: boolean;
  readonly ignore_sigpipe?: boolean;
}

/** One line of send_order.py. */
type HolderEvent = Partial<{ pid: number; reply: string; eof: true; end: number; forgot: true }>;

/** The architecture that runs here without emulation. */
export const NATIVE = process.arch as HolderArch;

/** Says why this machine cannot run the holder's tests, or nothing if it can. */
export function whyNoHolder(): string | undefined {
  if (NATIVE !== "x64" && NATIVE !== "arm64") return `there is no holder for ${process.arch}`;
  const imports = "import ctypes, socket; socket.send_fds";
  if (spawnSync("python3", ["-c", imports]).status !== 0) {
    return "python3 (3.9 or newer) is not installed: Node cannot send a descriptor";
  }
  return undefined;
}

/** Whether a program is found in PATH. */
export function isInstalled(program: string): boolean {
  return pathOf(program) !== undefined;
}

/** Where a program is in PATH. */
export function pathOf(program: string): string | undefined {
  const { stdout, status } = spawnSync("/bin/sh", ["-c", 'command -v "$1"', "sh", program]);
  return status === 0 ? stdout.toString().trim() : undefined;
}

/** The bytes as hex digits. */
export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

/** A folder with a holder's image in it, and one on tmpfs for lock files. Disposing removes both. */
export class Workplace {
  readonly #images = mkdtempSync(join(tmpdir(), "holder-"));
  readonly #locks = mkdtempSync("/dev/shm/holder-");

  /** Writes the image and returns its path. */
  image(arch: HolderArch = NATIVE): string {
    const path = join(this.#images, `sshlock-holder-${arch}`);
    writeFileSync(path, holderImage(arch), { mode: 0o755 });
    return path;
  }

  /** The path of the lock file; it need not exist. */
  get lock(): string {
    return join(this.#locks, "lock");
  }

  [Symbol.dispose](): void {
    for (const folder of [this.#images, this.#locks]) rmSync(folder, { recursive: true });
  }
}

/** Encodes an order; what is not named is off. */
export function order(order: Partial<Order> = {}): Uint8Array {
  return encodeOrder({ name: "NAME", shared: false, wait: false, tied: false, ...order });
}

/** Whether a third party could lock the file at this instant. */
export function isFree(lock: string, mode: "-x" | "-s" = "-x"): boolean {
  return spawnSync("flock", ["-n", mode, lock, "true"]).status === 0;
}

/** Waits in the kernel's queue until the file has been free; false after 20 s. */
export async function becomesFree(lock: string): Promise<boolean> {
  const [code] = await once(spawn("flock", ["-w", "20", lock, "true"]), "exit");
  return code === 0;
}

/** A holder and the process that plays its agent. Disposing ends both. */
export class HolderRun {
  readonly #agent: ChildProcessWithoutNullStreams;
  readonly #gone: Promise<unknown>;
  readonly #lines: AsyncIterator<string>;
  readonly #seen: HolderEvent[] = [];

  constructor(options: HolderOptions) {
    const { order, ...others } = options;
    const json = { ...others, argv0: SPARE_ARGV0, order: order && toHex(order) };
    this.#agent = spawn("python3", ["test/fixtures/send_order.py", JSON.stringify(json)]);
    this.#gone = once(this.#agent, "exit");
    this.#agent.stderr.pipe(process.stderr);
    this.#agent.stdin.on("error", () => {}); // a command for an agent that was killed
    this.#lines = createInterface({ input: this.#agent.stdout })[Symbol.asyncIterator]();
  }

  /** Starts both; the holder has its order, if there is one, but need not have obeyed yet. */
  static async start(options: HolderOptions): Promise<HolderRun & { pid: number }> {
    const run = new HolderRun(options);
    const pid = await run.next("pid");
    return Object.assign(run, { pid });
  }

  /** Waits for the next event of a kind; events of other kinds are kept for later. */
  async next<Kind extends keyof HolderEvent>(kind: Kind): Promise<NonNullable<HolderEvent[Kind]>> {
    for (;;) {
      const index = this.#seen.findIndex((event) => kind in event);
      if (index >= 0) return this.#seen.splice(index, 1)[0]![kind]!;
      const { value, done } = await this.#lines.next();
      if (done) throw new Error(`Cannot wait for "${kind}": the fixture ended`);
      this.#seen.push(JSON.parse(value));
    }
  }

  /** Gives the fixture a command. */
  tell(command: string): void {
    this.#agent.stdin.write(command + "\n");
  }

  /** Kills the agent's stand-in, as `kill -9` of the agent does, and waits until it is gone. */
  async killAgent(): Promise<void> {
    this.#agent.kill("SIGKILL");
    await this.#gone;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#agent.exitCode !== null || this.#agent.signalCode !== null) return;
    this.tell("kill");
    this.tell("quit");
    await this.#gone;
  }
}

/** The open descriptors of a process, each with what it refers to. */
export function descriptors(pid: number): Map<number, string> {
  const folder = `/proc/${pid}/fd`;
  return new Map(readdirSync(folder).map((fd) => [Number(fd), readlinkSync(join(folder, fd))]));
}
