/**
 * What the third way runs on the host: the shell protocol (`docs/architecture.md`), made to let go of
 * the lock when its session ends.
 *
 * The scripts are for bash, because dash cannot open descriptor 999. They contain neither single
 * quotes nor backslashes, so that they pass through any login shell in one pair of single quotes.
 *
 * @module
 */

import { quote } from "./quote.ts";

/** What each line that a script says to us begins with. */
export const MARK = "sshlock-shell:";

/** Where the shell protocol has its lock files. */
export const DEFAULT_LOCK_DIR = "/dev/shm";

/** Exit codes of the scripts. The first two are those of the shell protocol. */
export const EXIT = { noLockFile: 92, contended: 124, failed: 125, missing: 127 } as const;

/*
 * Taking the lock:
 * - A missing flock(1) would end in `|| exit 124` and so look like contention: it is looked for first.
 *   That of busybox has no -w, and answers a wrong option with the code of contention.
 * - The file is opened for reading first: with fs.protected_regular, O_CREAT on another user's file
 *   fails even for root. A FIFO would block, so only a regular file is opened.
 * - The path may have been replaced between open and flock: then it is started over. Small systems
 *   have no /dev/fd.
 * Holding it:
 * - `sleep` of uutils and busybox look at argv[0] and end at once when it is renamed: where the short
 *   try of it fails, a bash that reads the channel takes its place.
 * - A background process cannot have the channel as stdin 0 (bash puts /dev/null there): hence 3.
 * - The shell closes its own 999, so the holder alone has the lock, as in the shell protocol: whoever
 *   ends the holder by hand frees the lock, and `wait` tells us.
 * - The reader ends at EOF, which comes with the end of the channel, and ends the holder.
 */
const CLAIM_SCRIPT = `
say() { echo "${MARK}$*"; }
say start
name=$1 file=$2/session-lock-$1 wait=$3
command -v flock >/dev/null 2>&1 || { say no-flock; exit ${EXIT.missing}; }
[ "$wait" = 0 ] || flock --version >/dev/null 2>&1 || { say no-wait; exit ${EXIT.failed}; }
cannot_open() { say "no-file $why"; exit ${EXIT.noLockFile}; }
open_file() {
  why="it is not a regular file"; [ ! -e "$file" ] || [ -f "$file" ] || cannot_open
  { exec 999<"$file"; } 2>/dev/null && return
  why=$( { : >>"$file"; } 2>&1 ); why=\${why##*: }
  { exec 999>>"$file"; } 2>/dev/null || cannot_open
}
facts() {
  uid=""; while read -r key value _; do [ "$key" = Uid: ] && uid=$value; done <"$1/status"
  line=""; while IFS= read -r -d "" word; do line="$line$word "; done <"$1/cmdline"
  say "holder \${1#/proc/} $uid \${line//[^[:print:]]/?}"
}
contended() {
  exec 999<&-
  for p in /proc/[0-9]*; do
    [ "$p/fd/999" -ef "$file" ] || { [ ! -r "$p/fd" ] && IFS= read -r -d "" a <"$p/cmdline" &&
      [ "$a" = "session-lock-$name" ]; } || continue
    facts "$p"
  done 2>/dev/null
  exit ${EXIT.contended}
}
while :; do
  open_file
  if [ "$wait" = 0 ]; then flock -xn 999; else flock -x -w "$wait" 999; fi
  status=$?
  [ $status != 1 ] || contended
  [ $status = 0 ] || { say "flock-failed $status"; exit ${EXIT.failed}; }
  [ "$file" -ef /dev/fd/999 ] || [ "$file" -ef /proc/self/fd/999 ] && break
done
exec 3<&0
if (exec -a "session-lock-$name" sleep 0) >/dev/null 2>&1; then
  exec -a "session-lock-$name" sleep infinity </dev/null >/dev/null 2>&1 3<&- &
else
  exec -a "session-lock-$name" bash -s infinity <&3 >/dev/null 2>&1 3<&- &
fi
holder=$!
{ exec 999<&-; while read -r _; do :; done; kill "$holder"; } <&3 >/dev/null 2>&1 &
reader=$!
exec 999<&- 3<&-
say "locked $holder"
wait "$holder"
kill "$reader" 2>/dev/null
say ended
`;

/*
 * Reading only: a test with flock(1) would take the lock for a moment and so be contention itself.
 */
const STATUS_SCRIPT = `
say() { echo "${MARK}$*"; }
say start
for file in "$1"/session-lock-*; do
  [ -f "$file" ] || continue
  say "file $(stat -c "%D %i" "$file") \${file##*/session-lock-}"
  for p in /proc/[0-9]*; do
    [ "$p/fd/999" -ef "$file" ] || continue
    uid=""; while read -r key value _; do [ "$key" = Uid: ] && uid=$value; done <"$p/status"
    line=""; while IFS= read -r -d "" word; do line="$line$word "; done <"$p/cmdline"
    say "holder \${p#/proc/} $uid \${line//[^[:print:]]/?}"
  done 2>/dev/null
done
while read -r line; do say "lock $line"; done </proc/locks
`;

/**
 * The command that claims a lock, says what came of it, and holds it until its standard input ends.
 *
 * @param name A valid lock name.
 * @param waitMs How long to wait, in milliseconds.
 * @param lockDir The folder of the lock files.
 */
export function claimCommand(name: string, waitMs: number, lockDir: string): string {
  return bash(CLAIM_SCRIPT, [name, lockDir, String(waitMs / 1_000)]);
}

/**
 * The command that lists the lock files, the kernel's locks and the holders that can be seen.
 *
 * @param lockDir The folder of the lock files.
 */
export function statusCommand(lockDir: string): string {
  return bash(STATUS_SCRIPT, [lockDir]);
}

function bash(script: string, args: string[]): string {
  return ["exec bash -c", quote(script.trim()), "sshlock-shell", ...args.map(quote)].join(" ");
}
