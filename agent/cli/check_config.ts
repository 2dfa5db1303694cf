/**
 * `serve --check-config`: what an agent would work with, without starting one.
 *
 * @module
 */

import { CONFIG_KEYS, DEFAULT_CONFIG } from "../config.ts";
import { configPlace, type ConfigReading, findConfig } from "../config_file.ts";
import { printJson, printLine } from "../output.ts";
import { EXIT } from "./exit_codes.ts";
import { formatTable } from "./table.ts";

/**
 * Reads the config file as `serve` would, and prints the configuration that it makes.
 *
 * @param option The value of `--config`.
 * @param json Whether to print JSON.
 * @returns The exit code.
 * @throws {ConfigError} The file cannot be used; the message says where it is wrong.
 */
export function checkConfig(option: string | undefined, json: boolean): Promise<number> {
  const place = configPlace(option);
  const reading = findConfig(place);
  if (json) {
    printJson({ path: place.path, isPresent: reading.path !== undefined, config: reading.config });
  } else printTable(reading, place.path);
  return Promise.resolve(EXIT.ok);
}

function printTable({ config, path }: ConfigReading, place: string): void {
  const rows = CONFIG_KEYS.map((key) => {
    const value = config[key];
    return [key, `${value ?? "(none)"}`, `${DEFAULT_CONFIG[key] ?? "(none)"}`];
  });
  for (const line of formatTable(["KEY", "VALUE", "DEFAULT"], rows, { legend: true })) {
    printLine(line);
  }
  const missing = `${place} is not there: all values are defaults`;
  printLine(`\n${path === undefined ? missing : `${path} can be used`}`);
}
