/**
 * `sshlock`; the only file of it that ends the process.
 *
 * @module
 */

import process from "node:process";

import { runCommandLine } from "./command_line.ts";
import { flushOutput, ignoreBrokenPipes } from "./output.ts";

ignoreBrokenPipes();
const exitCode = await runCommandLine(process.argv.slice(2));
await flushOutput();
process.exit(exitCode);
