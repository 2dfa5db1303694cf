/**
 * Tables for a terminal: columns as wide as their widest cell, the last one cut at the edge.
 *
 * @module
 */

import process from "node:process";

/**
 * The lines of a table.
 *
 * @param headings One a column.
 * @param rows Cells; as many a row as there are headings.
 * @param options Whether the headings are shown. On a terminal lines end at its edge; in a pipe nothing is cut.
 */
export function formatTable(
  headings: string[],
  rows: string[][],
  { legend }: { legend: boolean },
): string[] {
  const shown = legend ? [headings, ...rows] : rows;
  const widths = headings.map((_, column) => Math.max(...shown.map((row) => row[column]!.length)));
  const edge = process.stdout.isTTY ? process.stdout.columns : Infinity;
  return shown.map((row) => cut(formatRow(row, widths), edge));
}

function formatRow(row: string[], widths: number[]): string {
  return row.map((cell, column) => cell.padEnd(widths[column]!)).join("  ").trimEnd();
}

function cut(line: string, width: number): string {
  return line.length <= width ? line : line.slice(0, width - 1) + "…";
}
