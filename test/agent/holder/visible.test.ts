import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import {
  descriptors,
  HolderRun,
  isInstalled,
  order,
  toHex,
  whyNoHolder,
  Workplace,
} from "./support.ts";

const LONGEST_NAME = "n".repeat(100);

/** Kilobytes that a holder may have in memory: the promise for one held lock. */
const MAX_RESIDENT_KB = 16;

const skip = whyNoHolder() ?? false;

describe("a holder to people", { skip }, () => {
  /** A name of this run, so that locks of others on the machine do not matter. */
  const name = `visible.${process.pid}`;

  for (const [program, ...applet] of [["pgrep"], ["busybox", "pgrep"]] as const) {
    const search = [program, ...applet].join(" ");

    test(`${search} -af session-lock shows pid, name and infinity`, async (t) => {
      if (spawnSync(program, [...applet, "."]).status !== 0) {
        return t.skip(`${search} is not installed`);
      }
      using workplace = new Workplace();
      const options = { command: [workplace.image()], lock: workplace.lock };
      await using spare = await HolderRun.start(options);
      await using run = await HolderRun.start({ ...options, order: order({ name }) });
      assert.equal(await run.next("reply"), "L");

      const found = lines(program, [...applet, "-af", "session-lock"]);
      assert.ok(found.includes(`${run.pid} session-lock-${name} infinity`), found.join("\n"));
      assert.ok(!found.some((line) => line.startsWith(`${spare.pid} `)), "a spare is no lock");
    });
  }

  test("pgrep -f finds it by its exact command line", async (t) => {
    if (!isInstalled("pgrep")) return t.skip("pgrep (procps) is not installed");
    using workplace = new Workplace();
    const options = { command: [workplace.image()], lock: workplace.lock };
    await using run = await HolderRun.start({ ...options, order: order({ name }) });
    assert.equal(await run.next("reply"), "L");
    const exact = lines("pgrep", ["-f", `^session-lock-${name} infinity$`]);
    assert.deepEqual(exact, [String(run.pid)]);
  });

  test("busybox ps shows the shell protocol's command", async (t) => {
    if (!isInstalled("busybox")) return t.skip("busybox is not installed");
    using workplace = new Workplace();
    const options = { command: [workplace.image()], lock: workplace.lock };
    await using run = await HolderRun.start({ ...options, order: order({ name }) });
    assert.equal(await run.next("reply"), "L");
    const shown = lines("busybox", ["ps", "-o", "pid,args"]).map((line) => line.trim());
    assert.ok(shown.includes(`${run.pid} session-lock-${name} infinity`));
  });

  test("ps shows the shell protocol's command, also for the longest name", async (t) => {
    if (!isInstalled("ps")) return t.skip("ps (procps) is not installed");
    using workplace = new Workplace();
    const options = { command: [workplace.image()], lock: workplace.lock };
    await using run = await HolderRun.start({ ...options, order: order({ name: LONGEST_NAME }) });
    assert.equal(await run.next("reply"), "L");
    const [args] = lines("ps", ["-ww", "-o", "args=", "-p", String(run.pid)]);
    assert.equal(args, `session-lock-${LONGEST_NAME} infinity`);
    assert.equal(commandLine(run.pid), `session-lock-${LONGEST_NAME}\0infinity\0`);
  });

  test("lslocks shows its pid and the start of its name", async (t) => {
    if (!isInstalled("lslocks")) return t.skip("lslocks (util-linux) is not installed");
    using workplace = new Workplace();
    const options = { command: [workplace.image()], lock: workplace.lock };
    await using run = await HolderRun.start({ ...options, order: order({ name: "NAME" }) });
    assert.equal(await run.next("reply"), "L");
    const shown = lines("lslocks", ["-nr", "-p", String(run.pid), "-o", "COMMAND,PID,TYPE,MODE"]);
    assert.deepEqual(shown, [`session-lock-NA ${run.pid} FLOCK WRITE`]);
  });

  for (const no_close_range of [false, true]) {
    const kernel = no_close_range ? "a kernel without close_range(2)" : "this kernel";

    test(`it has fds 0 to 3 and 999 on ${kernel}, whatever was leaked into it`, async () => {
      using workplace = new Workplace();
      await using run = await HolderRun.start({
        command: [workplace.image()],
        lock: workplace.lock,
        leak: 12,
        no_close_range,
        order: order({ name }),
      });
      assert.equal(await run.next("reply"), "L");
      const { 3: socket, ...files } = Object.fromEntries(descriptors(run.pid));
      assert.match(socket ?? "", /^socket:/);
      const nothing = "/dev/null";
      assert.deepEqual(files, { 0: nothing, 1: nothing, 2: nothing, 999: workplace.lock });
    });
  }

  test("it works with no environment, no PATH, in /, in a session of its own", async () => {
    using workplace = new Workplace();
    const options = { command: [workplace.image()], lock: workplace.lock };
    await using run = await HolderRun.start({ ...options, order: order({ name }) });
    assert.equal(await run.next("reply"), "L");
    assert.equal(readFileSync(`/proc/${run.pid}/environ`).length, 0);
    const [cwd] = lines("readlink", [`/proc/${run.pid}/cwd`]);
    assert.equal(cwd, "/");
    const stat = readFileSync(`/proc/${run.pid}/stat`, "utf8");
    const [, , , session] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    assert.equal(session, String(run.pid));
  });

  test(`it has at most ${MAX_RESIDENT_KB} kB in memory, as a spare and as a holder`, async (t) => {
    using workplace = new Workplace();
    const options = { command: [workplace.image()], lock: workplace.lock };
    await using run = await HolderRun.start({ ...options, order: order({ name }) });
    assert.equal(await run.next("reply"), "L");
    await using spare = await HolderRun.start(options);
    await using waiter = await HolderRun.start(options);
    waiter.tell(`order ${toHex(order({ name, wait: true }))}`);
    assert.equal(await waiter.next("reply"), "W");
    for (const [what, pid] of [["holder", run.pid], ["waiter", waiter.pid], ["spare", spare.pid]]) {
      const resident = residentKb(Number(pid));
      t.diagnostic(`${what}: ${resident} kB resident`);
      assert.ok(resident <= MAX_RESIDENT_KB, `${what}: ${resident} kB`);
    }
  });
});

function lines(program: string, args: string[]): string[] {
  const { stdout } = spawnSync(program, args, { encoding: "utf8" });
  return stdout.split("\n").map((line) => line.trimEnd()).filter((line) => line !== "");
}

/** argv as the kernel has it, without the NULs that fill the room of a spare's argv[0]. */
function commandLine(pid: number): string {
  return readFileSync(`/proc/${pid}/cmdline`, "utf8").replace(/\0+$/, "\0");
}

/** The sum over all mappings: VmRSS in /proc/PID/status is only roughly right on newer kernels. */
function residentKb(pid: number): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  return Number(/^Rss: +(\d+) kB$/m.exec(rollup)?.[1]);
}
