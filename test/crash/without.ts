import type { Patch } from "../support/agent_build.ts";

/** A line of the agent that is taken out, and the scenario that goes wrong without it. */
export interface Without {
  readonly what: string;
  readonly scenario: string;
  readonly patch: Patch;
  /** With what holders keep the next agent makes up for it: that is taken away as well. */
  readonly andWithoutCopies?: true;
}

/** No holder keeps a copy of its lock's record. */
export const NO_COPIES: Patch = {
  file: "agent/server.ts",
  find: "keepsCopies: true",
  replace: "keepsCopies: false",
};

/** What the order of two statements, or one of them, is there for. */
export const WITHOUT: readonly Without[] = [
  {
    what: "the record before the tie is cut",
    scenario: "grant.owned of a claim",
    patch: {
      file: "agent/lock_table.ts",
      find: `    crashPoint("grant.owned");\n`,
      replace: `    holder.untie();\n    crashPoint("grant.owned");\n`,
    },
  },
  {
    what: "the tie",
    scenario: "claim.kernel-locked of a claim",
    patch: { file: "agent/kernel_claim.ts", find: "tied: true }", replace: "tied: false }" },
  },
  {
    what: "a record at once when a joined lock is released",
    scenario: "record.drafted of a release of a joined lock",
    patch: {
      file: "agent/lock_table.ts",
      find: "    else this.#record(entry);\n",
      replace: "    else this.#recordLater(entry.name);\n",
    },
  },
  {
    what: "a record before a holder is replaced",
    scenario: "holder.replaced of a killed holder",
    patch: {
      file: "agent/lock_table.ts",
      find: "if (!isOver(ownership)) this.#record(entry);\n      },",
      replace: "},",
    },
  },
  {
    what: "the copy of the record that a holder keeps",
    scenario: "adoption.all-adopted of a start that finds no records",
    patch: NO_COPIES,
  },
  {
    what: "the predecessor's record until all of it is adopted",
    scenario: "adoption.lock-adopted of a start",
    andWithoutCopies: true,
    patch: {
      file: "agent/lock_table.ts",
      find: "return this.#recordLater(name);",
      replace: "return this.#record(entry);",
    },
  },
  {
    what: "the end of the holder before the lock is freed",
    scenario: "unlock.unlocked of a release",
    andWithoutCopies: true,
    patch: {
      file: "agent/kernel_claim.ts",
      find: `  holder.kill();\n  crashPoint("unlock.holder-killed");\n`,
      replace: "",
    },
  },
];
