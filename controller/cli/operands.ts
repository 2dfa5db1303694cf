/**
 * Finds where the command of `sshlock run` begins: nothing of it may be taken for an option of ours.
 *
 * @module
 */

/** A command line, cut in two. */
export interface CutLine {
  /** Options and operands of our own. */
  own: string[];
  /** The command for the host, word by word. */
  command: string[];
}

/**
 * Cuts a command line behind its first operands. A `--` there is left out.
 *
 * @param args The arguments.
 * @param valueOptions Options that take a value, such as `-i` and `--identity`.
 * @param operandCount How many operands are ours.
 */
export function cutAtCommand(
  args: readonly string[],
  valueOptions: ReadonlySet<string>,
  operandCount: number,
): CutLine {
  const own: string[] = [];
  const rest = [...args];
  let operands = 0;
  while (rest.length > 0 && operands < operandCount) {
    const arg = rest.shift() as string;
    if (arg === "--") continue;
    own.push(arg);
    if (!arg.startsWith("-") || arg === "-") operands++;
    else if (valueOptions.has(arg) && rest.length > 0) own.push(rest.shift() as string);
  }
  // Options may stand behind the operands, up to the command.
  while (rest[0]?.startsWith("-") && rest[0] !== "--") {
    const arg = rest.shift() as string;
    own.push(arg);
    if (valueOptions.has(arg) && rest.length > 0) own.push(rest.shift() as string);
  }
  if (rest[0] === "--") rest.shift();
  return { own, command: rest };
}
