import ts from "typescript";

import { type Finding, finding, type SourceFile } from "./source_files.ts";

/**
 * Finds exports without a docstring.
 *
 * Re-exports are documented where they are declared. One documented signature of an overloaded
 * function is enough.
 */
export function checkDocs(files: readonly SourceFile[]): Finding[] {
  return files.flatMap((file) => {
    const documented = new Set<string>();
    const undocumented = new Map<string, ts.Node>();
    for (const [name, node] of exportedDeclarations(file.tree)) {
      if (hasDocstring(node)) documented.add(name);
      else if (!undocumented.has(name)) undocumented.set(name, node);
    }
    return [...undocumented]
      .filter(([name]) => !documented.has(name))
      .map(([name, node]) => finding(file, node, `export ${name} has no docstring`));
  });
}

function exportedDeclarations(tree: ts.SourceFile): [string, ts.Node][] {
  const listed = listedExports(tree);
  return tree.statements.flatMap((statement): [string, ts.Node][] => {
    if (ts.isExportAssignment(statement)) return [["default", statement]];
    const exported = hasExportModifier(statement);
    return declaredNames(statement)
      .filter((name) => exported || listed.has(name))
      .map((name) => [name, statement]);
  });
}

// The local names in `export { a, b as c };`.
function listedExports(tree: ts.SourceFile): Set<string> {
  const names = tree.statements
    .filter((statement) => ts.isExportDeclaration(statement))
    .filter((statement) => statement.moduleSpecifier === undefined)
    .flatMap((statement) => {
      const clause = statement.exportClause;
      return clause !== undefined && ts.isNamedExports(clause) ? [...clause.elements] : [];
    })
    .map((element) => (element.propertyName ?? element.name).text);
  return new Set(names);
}

function declaredNames(statement: ts.Statement): string[] {
  if (ts.isVariableStatement(statement)) {
    return statement.declarationList.declarations.map((declaration) => declaration.name.getText());
  }
  const isNamed = ts.isFunctionDeclaration(statement) || ts.isClassDeclaration(statement) ||
    ts.isInterfaceDeclaration(statement) || ts.isTypeAliasDeclaration(statement);
  return isNamed ? [statement.name?.text ?? "default"] : [];
}

function hasExportModifier(statement: ts.Statement): boolean {
  return ts.canHaveModifiers(statement) &&
    (ts.getModifiers(statement) ?? []).some((word) => word.kind === ts.SyntaxKind.ExportKeyword);
}

function hasDocstring(node: ts.Node): boolean {
  return ts.getJSDocCommentsAndTags(node).some((doc) =>
    ts.isJSDoc(doc) && (ts.getTextOfJSDocComment(doc.comment)?.trim() ?? "") !== ""
  );
}
