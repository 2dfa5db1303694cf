import { Buffer } from "node:buffer";
import { once } from "node:events";

import { LockContendedError } from "../controller/errors.ts";
import { killAndConfirm } from "../test/support/processes.ts";
import { shellProtocol } from "../test/support/shell_lock.ts";
import { interleave, type Times } from "./sampling.ts";
import type { World } from "./world.ts";

/** As long as a `hello` and a `claim` together. */
const ECHO = Buffer.alloc(200, "x");

/** Measures what goes over one open SSH connection, each time over a fresh channel. */
export async function measureClaims(
  world: World,
  rounds: number,
  signal: AbortSignal,
): Promise<Record<"shell" | "claim" | "echo" | "contended" | "again", Times>> {
  const rival = world.session("bench/rival");
  await rival.session.claim("held");
  return await interleave(
    {
      shell: () => measureShell(world),
      claim: () => measureClaim(world),
      echo: () => measureEcho(world),
      contended: () => measureContended(world),
      again: () => measureAgain(world),
    },
    rounds,
    signal,
  );
}

async function measureClaim(world: World): Promise<number> {
  const { session, close } = world.session("bench/1");
  const startMs = performance.now();
  const lock = await session.claim("free");
  const tookMs = performance.now() - startMs;
  await lock.release();
  close();
  return tookMs;
}

/** A later claim, on a channel that is open. */
async function measureAgain(world: World): Promise<number> {
  const { session, close } = world.session("bench/1");
  await session.status("free");
  const startMs = performance.now();
  const lock = await session.claim("free");
  const tookMs = performance.now() - startMs;
  await lock.release();
  close();
  return tookMs;
}

async function measureContended(world: World): Promise<number> {
  const { session, close } = world.session("bench/2");
  const startMs = performance.now();
  const error = await session.claim("held").catch((error: Error) => error);
  const tookMs = performance.now() - startMs;
  if (!(error instanceof LockContendedError)) throw new Error("The claim was not refused");
  close();
  return tookMs;
}

async function measureEcho({ transport, echoSocket }: World): Promise<number> {
  const startMs = performance.now();
  const channel = await transport.openSocket(echoSocket);
  channel.write(ECHO);
  let missing = ECHO.length;
  channel.on("data", (bytes: Buffer) => {
    missing -= bytes.length;
    if (missing === 0) channel.emit("echoed");
  });
  await once(channel, "echoed");
  const tookMs = performance.now() - startMs;
  channel.destroy();
  return tookMs;
}

async function measureShell({ transport, agent }: World): Promise<number> {
  // The pid is no part of the protocol: we need it to end the holder.
  const script = `${shellProtocol(agent.dirs.lockDir, "shell")}\necho $!\n`;
  const startMs = performance.now();
  const shell = await transport.exec(script);
  let text = "";
  shell.stdout.on("data", (bytes: Buffer) => text += bytes);
  shell.stderr.resume();
  const { exitCode } = await shell.closed;
  const tookMs = performance.now() - startMs;
  if (!/^\d+\n$/.test(text)) throw new Error(`The shell protocol ended with ${exitCode}: ${text}`);
  await killAndConfirm(Number(text));
  return tookMs;
}
