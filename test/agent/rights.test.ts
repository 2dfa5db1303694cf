import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmodSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Duplex } from "node:stream";
import { test } from "node:test";
import { type AgentProcess, makeAgentDirs, startAgent } from "../support/agent_process.ts";
import { childExit } from "../support/child.ts";
import { requires } from "../support/requires.ts";
import { RpcClient, type RpcError } from "../support/rpc_client.ts";

const skip = requires("root", "setpriv", "socat");

// Groups that every Debian and Alpine has, so that none has to be made.
const [USERS, ADMINS] = ["games", "staff"];

const [HOLDER, STRANGER, ADMIN] = [4711, 4712, 4713];

test("only root, the same user and the admin group may break a lock", { skip }, async () => {
  await using host = await startHost();
  for (
    const [uid, groups, mayBreak] of [
      [STRANGER, [USERS], false],
      [ADMIN, [USERS, ADMINS], true],
      [HOLDER, [USERS], true],
      [0, [], true],
    ] as const
  ) {
    await using holder = await host.connectAs(HOLDER, [USERS]);
    // The session before it may still be ending.
    await holder.request("claim", { name: "deploy", waitMs: 60_000 });
    await using other = await host.connectAs(uid, groups);
    const breaking = other.request("break", { name: "deploy", reason: "test" });
    if (mayBreak) {
      assert.deepEqual(await breaking, { broken: [`uid ${HOLDER}`] });
      assert.equal((await holder.notification("lost")).params.reason, "broken");
    } else {
      await assert.rejects(breaking, ({ data }: RpcError) => data.code === "denied");
      await holder.request("release", { name: "deploy" });
    }
  }
});

test(
  "who may not end the session is refused when the holder does not release",
  { skip },
  async () => {
    await using host = await startHost();
    await using holder = await host.connectAs(HOLDER, [USERS]);
    await holder.request("claim", { name: "deploy" });
    await using stranger = await host.connectAs(STRANGER, [USERS]);
    const takeover = { reason: "mine", deadlineMs: 100 };
    await assert.rejects(
      stranger.request("claim", { name: "deploy", takeover }),
      ({ data, message }: RpcError) => {
        assert.deepEqual([data.code, data.takeover], ["contended", "not-authorised"]);
        assert.match(message, /asked for and not released, and only root, the user who has it/);
        return true;
      },
    );
    const { params } = await holder.notification("takeover");
    assert.deepEqual([params.byUid, params.forced], [STRANGER, false]);
    await using admin = await host.connectAs(ADMIN, [USERS, ADMINS]);
    await admin.request("claim", { name: "deploy", takeover });
    assert.equal((await holder.notification("lost")).params.reason, "taken-over");
  },
);

test("another user's claim under the same owner does not get a parked lock", { skip }, async () => {
  await using host = await startHost();
  const holder = await host.connectAs(HOLDER, [USERS], "o");
  await holder.request("claim", { name: "deploy", parkMs: 60_000 });
  await holder.destroy();
  await host.agent.events.waitFor(({ event }) => event === "lock-parked", { what: "lock-parked" });
  await using stranger = await host.connectAs(STRANGER, [USERS], "o");
  await assert.rejects(stranger.request("claim", { name: "deploy" }));
  await using again = await host.connectAs(HOLDER, [USERS], "o");
  assert.equal((await again.request("claim", { name: "deploy" })).unparked, true);
});

interface Host extends AsyncDisposable {
  agent: AgentProcess;
  connectAs(uid: number, groups: readonly string[], owner?: string): Promise<RpcClient>;
}

async function startHost(): Promise<Host> {
  const made = await makeAgentDirs();
  const { dirs } = made;
  const config = join(dirname(dirs.runtimeDir), "agent.json");
  writeFileSync(config, JSON.stringify({ adminGroup: ADMINS }), { mode: 0o600 });
  // Others must reach the socket.
  chmodSync(dirname(dirs.runtimeDir), 0o711);
  chmodSync(dirs.runtimeDir, 0o750);
  const agent = await startAgent({ dirs, args: ["--group", USERS, "--config", config] });
  const connectAs = async (uid: number, groups: readonly string[], owner = `uid ${uid}`) => {
    const ids = [`--reuid=${uid}`, `--regid=${groups[0] ?? 0}`];
    const rest = groups.length === 0 ? ["--clear-groups"] : [`--groups=${groups.join(",")}`];
    const args = [...ids, ...rest, "socat", "-", `UNIX-CONNECT:${dirs.socket}`];
    const child = spawn("setpriv", args, { stdio: ["pipe", "pipe", "inherit"] });
    const exit = childExit(child);
    const stream = Duplex.from({ readable: child.stdout, writable: child.stdin });
    const client = new RpcClient(stream as Duplex);
    void client.closed.then(() => child.kill("SIGKILL"));
    await client.request("hello", { protocol: 1, owner, session: "process" });
    void exit.catch(() => {});
    return client;
  };
  return {
    agent,
    connectAs,
    async [Symbol.asyncDispose]() {
      await agent.stop();
      await made.remove();
    },
  };
}
