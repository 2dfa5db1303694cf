/**
 * The holder's file: present, executable, and byte for byte what this program would write.
 *
 * @module
 */

import type { Buffer } from "node:buffer";
import { accessSync, constants, readFileSync, statSync } from "node:fs";
import { dirname } from "node:path";
import process from "node:process";
import { type HolderArch, holderImage } from "../holder/image.ts";
import { type Finding, found, type Scene } from "./finding.ts";

/**
 * Whether claims can start this holder, and whether nobody else can exchange it.
 *
 * @param scene What is known of the host.
 */
export function checkHolderFile({ paths: { holder }, uid }: Scene): Finding[] {
  const write = `sshlock-agent holder --write ${holder}`;
  let bytes: Buffer;
  try {
    bytes = readFileSync(holder);
  } catch (error) {
    return [fail(`Holder ${holder} cannot be read: ${describe(error)}`, write)];
  }
  try {
    accessSync(holder, constants.X_OK);
  } catch {
    return [fail(`Holder ${holder} is not executable`, `chmod 755 ${holder}`)];
  }
  if (!bytes.equals(holderImage(process.arch as HolderArch))) {
    return [fail(`Holder ${holder} is not the one of this program`, write)];
  }
  const writer = othersWhoWrite(holder, uid) ?? othersWhoWrite(dirname(holder), uid);
  if (writer !== undefined) {
    return [
      found(
        "holder-file",
        "warn",
        `Holder ${holder} can be exchanged by others: ${writer}`,
        "chown root and chmod 755 what is named",
      ),
    ];
  }
  const size = `${bytes.length} bytes`;
  return [found("holder-file", "ok", `Holder ${holder}: ${size}, as this program writes it`)];
}

function fail(what: string, hint: string): Finding {
  return found("holder-file", "fail", what, hint);
}

function othersWhoWrite(path: string, uid: number): string | undefined {
  const stat = statSync(path);
  if (stat.uid !== 0 && stat.uid !== uid) return `${path} belongs to uid ${stat.uid}`;
  const isSticky = stat.isDirectory() && (stat.mode & 0o1000) !== 0;
  if ((stat.mode & 0o002) !== 0 && !isSticky) return `${path} is writable for everybody`;
  return undefined;
}

function describe(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ENOENT") return "there is no such file";
  if (code === "EACCES") return "permission denied";
  return message;
}
