import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";

/** A source file with its parsed syntax tree. */
export type SourceFile = {
  /** Relative to the project's root, with slashes: `agent/libc.ts`. */
  readonly path: string;
  readonly tree: ts.SourceFile;
};

/** Something that a house check objects to, as `path:line: what`. */
export type Finding = string;

/** Reads and parses all TypeScript files in the given folders, in the order of their paths. */
export function readSources(folders: readonly string[]): SourceFile[] {
  return folders.filter((folder) => existsSync(folder)).flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .map((name) => join(folder, name))
      .sort()
      .map((path) => parseSource(path, readFileSync(path, "utf8")))
  );
}

/** Parses one file's text. */
export function parseSource(path: string, text: string): SourceFile {
  return { path, tree: ts.createSourceFile(path, text, ts.ScriptTarget.ES2023, true) };
}

/** Words a finding about one node of a file. */
export function finding(file: SourceFile, node: ts.Node, what: string): Finding {
  const { line } = file.tree.getLineAndCharacterOfPosition(node.getStart(file.tree));
  return `${file.path}:${line + 1}: ${what}`;
}
