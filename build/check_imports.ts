import { basename, join } from "node:path";
import ts from "typescript";

import { type Finding, finding, type SourceFile } from "./source_files.ts";

/** The folders that have a place in the order of imports. */
export const LAYERS = ["protocol", "agent", "controller"] as const;

type Layer = (typeof LAYERS)[number];

const MAY_IMPORT: Record<Layer, readonly Layer[]> = {
  protocol: ["protocol"],
  agent: ["agent", "protocol"],
  controller: ["controller", "protocol"],
};

// What only one kind of file may do. The patterns are matched against an expression's own text.
const RESERVED: readonly { what: RegExp; files: readonly string[]; why: string }[] = [
  {
    what: /^(globalThis\.)?Deno\.(dlopen|Unsafe\w+)$/,
    files: ["agent/libc.ts"],
    why: "only agent/libc.ts touches FFI",
  },
  {
    what: /^(process\.(exit|reallyExit|abort)|(globalThis\.)?Deno\.exit)$/,
    files: ["main.ts"],
    why: "only main.ts exits",
  },
  {
    what: /^(console\.\w+|process\.(stdout|stderr)\.write)$/,
    files: ["output.ts", "log.ts"],
    why: "only output.ts and log.ts print",
  },
];

const RESERVED_MODULES: Record<string, string> = {
  "bun:ffi": "agent/libc.ts",
  "ssh2": "controller/ssh_transport.ts",
};

/**
 * Finds imports against the direction of the tree, and calls that belong to other files.
 *
 * `protocol` imports nothing of ours, `agent` and `controller` never each other; FFI, ssh2, exiting
 * and printing each have their file.
 */
export function checkImports(files: readonly SourceFile[]): Finding[] {
  return files.flatMap((file) => {
    const layer = LAYERS.find((name) => file.path.startsWith(`${name}/`));
    return layer === undefined ? [] : [...importFindings(file, layer), ...callFindings(file)];
  });
}

function importFindings(file: SourceFile, layer: Layer): Finding[] {
  return importedModules(file.tree).flatMap((node) => {
    const objection = objectToImport(file.path, layer, node.text);
    return objection === undefined ? [] : [finding(file, node, objection)];
  });
}

function objectToImport(path: string, layer: Layer, module: string): string | undefined {
  const owner = RESERVED_MODULES[module.replace(/^npm:/, "").split("/")[0] ?? ""] ??
    RESERVED_MODULES[module];
  if (owner !== undefined && owner !== path) return `only ${owner} imports ${module}`;
  if (!module.startsWith(".")) return undefined;
  const target = join(path, "..", module);
  const allowed = MAY_IMPORT[layer];
  if (allowed.some((name) => target.startsWith(`${name}/`))) return undefined;
  return `${layer} imports ${target}; it may import ${allowed.join(" and ")} only`;
}

// Static imports, re-exports, import(), require() and import types.
function importedModules(tree: ts.SourceFile): ts.StringLiteralLike[] {
  const found: ts.StringLiteralLike[] = [];
  const keep = (node: ts.Node | undefined) => {
    if (node !== undefined && ts.isStringLiteralLike(node)) found.push(node);
  };
  visit(tree, (node) => {
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) keep(node.moduleSpecifier);
    if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
      keep(node.argument.literal);
    }
    if (ts.isCallExpression(node) && /^(import|require)$/.test(node.expression.getText(tree))) {
      const argument = node.arguments[0];
      keep(argument !== undefined && ts.isAsExpression(argument) ? argument.expression : argument);
    }
  });
  return found;
}

function callFindings(file: SourceFile): Finding[] {
  const findings: Finding[] = [];
  visit(file.tree, (node) => {
    if (ts.isPropertyAccessExpression(node)) {
      const text = node.getText(file.tree).replaceAll(/[?!\s]/g, "");
      const rule = RESERVED.find(({ what }) => what.test(text));
      if (rule !== undefined && !mayUse(file.path, rule.files)) {
        findings.push(finding(file, node, `${text}: ${rule.why}`));
      }
    }
    if (isImportOfExit(node) && !mayUse(file.path, ["main.ts"])) {
      findings.push(finding(file, node, "exit from node:process: only main.ts exits"));
    }
  });
  return findings;
}

function mayUse(path: string, files: readonly string[]): boolean {
  return files.some((name) => name.includes("/") ? path === name : basename(path) === name);
}

function isImportOfExit(node: ts.Node): boolean {
  return ts.isImportSpecifier(node) && (node.propertyName ?? node.name).text === "exit" &&
    /"(node:)?process"/.test(node.parent.parent.parent.moduleSpecifier.getText());
}

function visit(node: ts.Node, see: (node: ts.Node) => void): void {
  see(node);
  ts.forEachChild(node, (child) => visit(child, see));
}
