/**
 * The agent's command line; the only file that ends the process.
 *
 * @module
 */

import process from "node:process";
import { runCommandLine } from "./cli/command_line.ts";
import { EXIT } from "./cli/exit_codes.ts";

// Should nothing be left to wait for before there is an exit code, that is no success.
process.exitCode = EXIT.failure;
void runCommandLine(process.argv.slice(2)).then((exitCode) => process.exit(exitCode));
