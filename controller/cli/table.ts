/**
 * Tables for a terminal: columns as wide as their widest cell, lines cut at the edge.
 *
 * @module
 */

import process from "node:process";

import { bold, tame } from "./output.ts";

/**
 * The lines of a table.
 *
 * @param headings One a column.
 * @param rows Cells; as many a row as there are headings.
 * @param legend Whether the headings are shown.
 */
export function formatTable(headings: string[], rows: string[][], legend: boolean): string[] {
  const tamed = rows.map((row) => row.map(tame));
  const shown = legend ? [headings, ...tamed] : tamed;
  const widths = headings.map((_, column) =>
    Math.max(...shown.map((row) => row[column]?.length ?? 0))
  );
  const format = (row: string[]) =>
    cut(row.map((cell, column) => cell.padEnd(widths[column] as number)).join("  ").trimEnd());
  const lines = tamed.map(format);
  return legend ? [bold(format(headings)), ...lines] : lines;
}

/** In a pipe nothing is cut. */
function cut(line: string): string {
  const width = process.stdout.isTTY ? process.stdout.columns : Infinity;
  return line.length <= width ? line : `${line.slice(0, width - 1)}…`;
}
