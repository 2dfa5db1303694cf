/**
 * The agent's command line; the only file that ends the process.
 *
 * @module
 */

import process from "node:process";
import { runCommandLine } from "./cli/command_line.ts";

void runCommandLine(process.argv.slice(2)).then((exitCode) => process.exit(exitCode));
