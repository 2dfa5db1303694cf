import { assembleAarch64 } from "./aarch64.ts";
import type { Program } from "./code.ts";
import { CODE_OFFSET, ELF_MACHINE, elfExecutable } from "./elf.ts";
import { assembleX86 } from "./x86_64.ts";

export {
  AGENT_FD,
  encodeOrder,
  FLOCK,
  HOLDER_EXIT,
  LOCK_FD,
  ORDER,
  type Order,
  ORDER_FLAG,
  REPLY,
  SPARE_ARGV0,
} from "./order.ts";

/** An architecture that there is a holder for, as `process.arch` names it. */
export type HolderArch = "x64" | "arm64";

/**
 * Assembles the holder: a static ELF executable of a few hundred bytes, the same bytes every time.
 *
 * It is started ahead of use, as a spare: argv[0] `SPARE_ARGV0`, no arguments, an empty environment,
 * fds 0 to 2 on /dev/null, fd 3 one end of a unix stream socket pair in blocking mode. It closes
 * every other descriptor, and waits on fd 3 for an order (`encodeOrder`) with the lock file's
 * descriptor. Then it takes the name over, moves the descriptor to 999, locks it, answers with a
 * `REPLY` and holds. What it cannot do it says with an exit code of `HOLDER_EXIT`.
 */
export function holderImage(arch: HolderArch): Uint8Array {
  return elfExecutable(ELF_MACHINE[arch], assemble(arch).bytes);
}

/** The holder's instructions in objdump's words, each with its reason: what a reader can check. */
export function holderListing(arch: HolderArch): Program["listing"] {
  return assemble(arch).listing;
}

function assemble(arch: HolderArch): Program {
  return arch === "x64" ? assembleX86(CODE_OFFSET) : assembleAarch64(CODE_OFFSET);
}
