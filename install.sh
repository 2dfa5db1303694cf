#!/bin/sh
# Installs sshlock-agent and its holder on this machine, upgrades them, or
# removes them. docs/install.md explains every option and every file.
#
# Order of an installation: check everything, stage every file beside its target,
# swap all of them by rename, then tell systemd. What fails before the last swap
# is undone, so the machine has either the old version or the new one.
#
# Written for POSIX sh (dash, busybox ash). Functions come first, each above the
# ones that it calls; the last line of the file starts main().

set -eu
umask 022
LC_ALL=C
export LC_ALL
# Both change what a Bun-compiled binary does.
unset BUN_OPTIONS BUN_BE_BUN

script_version=0.1.0
program=sshlock-agent
group=sshlock
script_dir=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

main() {
  parse_arguments "$@"
  trap clean_up EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  choose_mode
  choose_paths
  if [ "$action" = uninstall ]; then
    uninstall
  else
    install_all
  fi
}

usage() {
  cat <<'END'
Usage: ./install.sh [OPTION]...

Installs sshlock-agent on this machine, or upgrades it.

What to install
  --from WHERE       a binary, a folder that has one, or an http(s) URL
                     (default: the binary beside this script)
  --sha256 HEX       the SHA-256 checksum that the binary must have
  --checksums FILE   a file as sha256sum(1) writes it, with the binary's line;
                     a URL needs one of these two

Where and for whom
  --system           for all users (default for root)
  --user             for the user who runs this, without root (default for
                     everybody else)
  --prefix DIR       default: /usr/local, with --user ~/.local
  --allow-user NAME  lets NAME use the agent (group sshlock); may be repeated
  --no-service       write no systemd units and start nothing

Removing
  --uninstall        remove what was installed; refused while locks are held
  --force            with --uninstall: end the locks that are held
  --purge            with --uninstall: remove the tokens and the group as well

Other
  --dry-run          say what would be done, change nothing
  --quiet            print only warnings and errors
  --help             print this
  --version          print the version of this script

Exit codes: 0 done, 125 bad usage or failure.
END
}

# --- Arguments ---------------------------------------------------------------

parse_arguments() {
  action=install mode='' prefix='' from='' expected='' checksums='' allowed=''
  service=yes force=no purge=no dry_run=no quiet=no
  while [ $# -gt 0 ]; do
    option=$1
    shift
    case $option in
      --from=* | --sha256=* | --checksums=* | --prefix=* | --allow-user=*)
        set -- "${option#*=}" "$@"
        option=${option%%=*}
        ;;
      --from | --sha256 | --checksums | --prefix | --allow-user)
        [ $# -gt 0 ] || fail "$option needs a value" "./install.sh --help lists all options"
        ;;
    esac
    case $option in
      --from) from=$1 && shift ;;
      --sha256) set_expected "$1" && shift ;;
      --checksums) checksums=$1 && shift ;;
      --prefix) prefix=$1 && shift ;;
      --allow-user) check_user_name "$1" && allowed="$allowed $1" && shift ;;
      --user | --system) set_mode "${option#--}" ;;
      --no-service) service=no ;;
      --uninstall) action=uninstall ;;
      --force) force=yes ;;
      --purge) purge=yes ;;
      --dry-run) dry_run=yes ;;
      --quiet) quiet=yes ;;
      --help) usage && exit 0 ;;
      --version) echo "install.sh of sshlock $script_version" && exit 0 ;;
      *) fail "unknown argument \"$option\"" "./install.sh --help lists all options" ;;
    esac
  done
  check_combination
}

check_combination() {
  if [ "$action" = install ]; then
    [ "$force$purge" = nono ] || fail "--force and --purge need --uninstall"
  elif [ -n "$from$expected$checksums$allowed" ] || [ "$service" = no ]; then
    fail "--uninstall goes with --system, --user, --prefix, --force, --purge, --dry-run and --quiet"
  fi
  if [ -n "$expected" ] && [ -n "$checksums" ]; then
    fail "--sha256 and --checksums exclude each other"
  fi
}

set_expected() {
  expected=$(printf '%s' "$1" | tr 'A-F' 'a-f')
  case $expected in *[!0-9a-f]*) expected='' ;; esac
  [ ${#expected} -eq 64 ] || fail "--sha256 \"$1\" is not a checksum of 64 hex digits"
}

set_mode() {
  if [ -n "$mode" ] && [ "$mode" != "$1" ]; then
    fail "--user and --system exclude each other"
  fi
  mode=$1
}

check_user_name() {
  case $1 in
    '' | -* | *[!A-Za-z0-9._@\$-]*) fail "--allow-user \"$1\" is not a user name" ;;
  esac
}

# --- Where things go ---------------------------------------------------------

choose_mode() {
  uid=$(id -u)
  if [ -z "$mode" ]; then
    if [ "$uid" -eq 0 ]; then mode=system; else mode=user; fi
  fi
  if [ "$mode" = system ] && [ "$uid" -ne 0 ]; then
    fail "cannot install for all users: uid $uid is not root" "run it as root, or with --user"
  fi
  if [ "$mode" = user ] && [ -n "$allowed" ]; then
    fail "--allow-user goes with a system install: a user's own agent serves only that user"
  fi
}

choose_paths() {
  work_dir=''
  if [ "$mode" = system ]; then
    prefix=${prefix:-/usr/local}
    state_dir=/var/lib/sshlock
    runtime_dir=/run/sshlock
    unit_dir=/etc/systemd/system
    config_file=/etc/sshlock/agent.json
  else
    [ -n "${HOME:-}" ] || fail "cannot install for uid $uid: HOME is not set"
    prefix=${prefix:-$HOME/.local}
    state_dir=${XDG_STATE_HOME:-$HOME/.local/state}/sshlock
    XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$uid}
    export XDG_RUNTIME_DIR
    runtime_dir=$XDG_RUNTIME_DIR/sshlock
    [ -d "$XDG_RUNTIME_DIR" ] || runtime_dir=/tmp/sshlock-$uid
    unit_dir=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
    config_file=${XDG_CONFIG_HOME:-$HOME/.config}/sshlock/agent.json
  fi
  [ "$prefix" != / ] || fail "cannot use / as the prefix" "did you mean /usr?"
  prefix=${prefix%/}
  for path in "$prefix" "$state_dir" "$runtime_dir" "$unit_dir"; do
    check_path "$path"
  done
  binary=$prefix/bin/$program
  holder=$prefix/lib/sshlock/sshlock-holder
  socket_unit=$unit_dir/$program.socket
  service_unit=$unit_dir/$program.service
}

# Units and the lists in this script split at blanks, and % has a meaning in units.
check_path() {
  case $1 in
    /*) ;;
    *) fail "cannot use \"$1\": the path is not absolute" ;;
  esac
  case $1 in
    *[!A-Za-z0-9/._+@:-]* | */../* | */..)
      fail "cannot use \"$1\": allowed in the path are letters, digits and / . _ + @ : -"
      ;;
  esac
}

has_systemd() {
  [ "$service" = yes ] && command -v systemctl >/dev/null 2>&1 || return 1
  if [ "$mode" = system ]; then
    [ -d /run/systemd/system ]
  else
    [ -S "$XDG_RUNTIME_DIR/systemd/private" ]
  fi
}

service_manager() {
  if [ "$mode" = system ]; then
    systemctl "$@"
  else
    systemctl --user "$@"
  fi
}

# --- Install -----------------------------------------------------------------

install_all() {
  staged_targets='' swapped_targets='' made_dirs='' made_group=no
  binary_changed=no socket_changed=no service_changed=no
  check_accounts
  check_targets
  find_source
  if [ "$dry_run" = yes ]; then
    describe_install
    return
  fi
  make_dir "$prefix"
  lock_out_others
  stage_all
  add_group
  swap_all
  allow_users
  start_service
  run_doctor
}

check_accounts() {
  for name in $allowed; do
    id -u "$name" >/dev/null 2>&1 ||
      fail "cannot allow \"$name\" to use the agent: there is no such user" \
        "create the user first, or check the spelling"
  done
  if [ "$mode" = system ] && ! has_group && ! find_command groupadd addgroup >/dev/null; then
    fail "cannot create the group $group: neither groupadd nor addgroup is here" \
      "add the line \"$group:x:GID:\" to /etc/group"
  fi
}

check_targets() {
  for path in "$binary" "$holder" "$socket_unit" "$service_unit"; do
    [ ! -d "$path" ] || fail "cannot install $path: a folder is in the way"
  done
  [ ! -L "$state_dir" ] || fail "cannot use $state_dir: it is a symbolic link"
  has_systemd || return 0
  for path in "$socket_unit" "$service_unit"; do
    [ ! -L "$path" ] || fail "cannot install $path: a symbolic link is in the way" \
      "if the unit was masked: systemctl unmask ${path##*/}; or use --no-service"
  done
}

has_group() {
  grep -q "^$group:" /etc/group || getent group "$group" >/dev/null 2>&1
}

find_command() {
  for candidate in "$@"; do
    command -v "$candidate" && return 0
  done
  return 1
}

# Sets $source to a local file.
find_source() {
  case $from in
    http://* | https://*) download ;;
    *://*) fail "cannot install from \"$from\": only http and https are known" ;;
    '') find_in "$script_dir/dist" "$script_dir" ;;
    *)
      if [ -d "$from" ]; then
        find_in "$from" "$from/dist"
      else
        source=$from source_name=${from##*/}
        [ -f "$source" ] || fail "cannot install from \"$from\": no such file or folder"
        [ -r "$source" ] || fail "cannot install from \"$from\": it cannot be read"
      fi
      ;;
  esac
  find_expected
}

# Takes the first candidate that runs here. Where none does (no execute bit, a folder
# mounted noexec), takes the first that is there: staging tells for certain.
find_in() {
  choose_flavour
  source=''
  for dir in "$@"; do
    for name in $names; do
      [ -f "$dir/$name" ] || continue
      [ -n "$source" ] || source=$dir/$name
      if [ -x "$dir/$name" ] && "$dir/$name" version >/dev/null 2>&1 </dev/null; then
        source=$dir/$name
        break 2
      fi
    done
  done
  source_name=${source##*/}
  [ -n "$source" ] || fail "cannot find a binary in $*: looked for $names" \
    "build it (npm run build), or name a file or a URL with --from"
}

# Sets $names, the file names that fit this machine, best first.
choose_flavour() {
  case $(uname -m) in
    x86_64 | amd64) flavour=linux-x64 ;;
    aarch64 | arm64) flavour=linux-arm64 ;;
    *) fail "cannot install on $(uname -m): there are binaries for x86_64 and aarch64" ;;
  esac
  names="$program $program-$flavour"
  if has_musl; then
    flavour=$flavour-musl
    names="$program-$flavour $program"
  fi
}

# A glibc system may have musl's loader installed too, so glibc is asked for first.
has_musl() {
  case $(ldd --version 2>&1 || :) in
    *musl*) return 0 ;;
    *GLIBC* | *GNU*) return 1 ;;
  esac
  for loader in /lib64/ld-linux*.so.* /lib/ld-linux*.so.*; do
    [ ! -e "$loader" ] || return 1
  done
  for loader in /lib/ld-musl-*.so.1; do
    [ ! -e "$loader" ] || return 0
  done
  return 1
}

download() {
  if [ -z "$expected$checksums" ]; then
    fail "cannot install from \"$from\": a download needs its checksum" \
      "give it with --sha256 or --checksums"
  fi
  choose_flavour
  case $from in */) from=$from$program-$flavour ;; esac
  source_name=${from##*/}
  source_name=${source_name%%[?#]*}
  if [ "$dry_run" = yes ]; then
    source=''
    return
  fi
  make_work_dir
  source=$work_dir/download
  say "downloading $from"
  if command -v curl >/dev/null 2>&1; then
    problem=$(curl -fsSL -o "$source" -- "$from" 2>&1) || download_failed curl
  elif command -v wget >/dev/null 2>&1; then
    problem=$(wget -q -O "$source" "$from" 2>&1) || download_failed wget
  else
    fail "cannot download $from: neither curl nor wget is here" \
      "copy the binary here and name it with --from"
  fi
}

download_failed() {
  fail "cannot download $from: $1 said: $(printf '%s' "$problem" | tr '\n' ' ')" \
    "copy the binary here and name it with --from"
}

make_work_dir() {
  [ -n "$work_dir" ] || work_dir=$(mktemp -d "${TMPDIR:-/tmp}/sshlock-install.XXXXXX") ||
    fail "cannot create a folder in ${TMPDIR:-/tmp}"
}

# Sets $expected from the line that --checksums has for the binary.
find_expected() {
  [ -n "$checksums" ] || return 0
  [ -r "$checksums" ] || fail "cannot read the checksums in \"$checksums\""
  expected=''
  while read -r sum name || [ -n "$sum" ]; do
    name=${name#\*}
    if [ "${name##*/}" = "$source_name" ]; then
      set_expected "$sum"
    fi
  done <"$checksums"
  [ -n "$expected" ] ||
    fail "cannot check \"$source_name\": \"$checksums\" has no line for it"
}

check_sum() { # FILE
  [ -n "$expected" ] || return 0
  actual=$(sha256sum <"$1") || fail "cannot compute the checksum of $1"
  actual=${actual%% *}
  [ "$actual" = "$expected" ] ||
    fail "cannot install \"${from:-$source}\": its checksum is $actual, expected was $expected" \
      "fetch or build the file again; nothing was changed"
}

# Two installers at once would take each other's half for their own. flock(1) on the
# prefix folder leaves no file behind; where it is missing, a folder with a pid does.
lock_out_others() {
  busy="cannot install to $prefix: another install.sh is running"
  if command -v flock >/dev/null 2>&1 && [ -r "$prefix" ]; then
    exec 9<"$prefix"
    if problem=$(flock -n 9 2>&1); then
      return
    elif [ -z "$problem" ]; then
      fail "$busy" "wait for it to end"
    fi
    exec 9<&-
  fi
  lock=$prefix/.sshlock-install
  if ! mkdir "$lock" 2>/dev/null; then
    other=$(cat "$lock/pid" 2>/dev/null || :)
    [ -d "$lock" ] || fail "cannot write to $prefix"
    fail "$busy${other:+ (pid $other)}" "wait for it to end; if none runs: rm -r $lock"
  fi
  lock_dir=$lock
  echo $$ >"$lock_dir/pid"
}

make_dir() {
  [ ! -d "$1" ] || return 0
  make_dir "$(dirname "$1")"
  mkdir "$1" 2>/dev/null || [ -d "$1" ] || fail "cannot create the folder $1"
  made_dirs="$1 ${made_dirs:-}"
}

# --- Staging: every new file lies beside its target before any is swapped ------

stage_all() {
  stage_binary
  stage_holder
  if has_systemd; then
    stage "$socket_unit" 0644 "${mode}_socket_unit"
    stage "$service_unit" 0644 "${mode}_service_unit"
  fi
}

staged_name() {
  echo "${1%/*}/.${1##*/}.new.$$"
}

backup_name() {
  echo "${1%/*}/.${1##*/}.old.$$"
}

stage() { # TARGET MODE COMMAND: the command's output becomes the file
  make_dir "${1%/*}"
  staged=$(staged_name "$1")
  staged_targets="$staged_targets $1"
  "$3" >"$staged" || fail "cannot write $staged"
  chmod "$2" "$staged" || fail "cannot set the mode of $staged"
}

# The staged copy is what is checked and run, so that nothing else can be installed.
stage_binary() {
  stage "$binary" 0755 print_source
  check_sum "$staged"
  agent=$staged
  version=$("$agent" version 2>&1 </dev/null) ||
    fail "cannot install \"${from:-$source}\": \"$program version\" failed on this machine: $version" \
      "this machine is $(describe_machine); take the binary for it"
  version=$(printf '%s\n' "$version" | head -n 1)
  # An agent that is started again with such a file would not come back.
  [ ! -e "$config_file" ] ||
    problem=$("$agent" serve --check-config --config "$config_file" 2>&1 </dev/null) ||
    fail "cannot install: \"$program serve --check-config\" said: $problem"
}

print_source() {
  cat "$source"
}

describe_machine() {
  if has_musl; then echo "$(uname -m) with musl"; else echo "$(uname -m) with glibc"; fi
}

stage_holder() {
  make_dir "${holder%/*}"
  staged=$(staged_name "$holder")
  staged_targets="$staged_targets $holder"
  problem=$("$agent" holder --write "$staged" 2>&1 </dev/null) ||
    fail "cannot write the holder: \"$program holder --write\" said: $problem"
  [ -s "$staged" ] || fail "cannot write the holder: \"$program holder --write\" wrote nothing"
  chmod 0755 "$staged" || fail "cannot set the mode of $staged"
}

# --- Swapping ------------------------------------------------------------------

swap_all() {
  make_state_dir
  for target in $staged_targets; do
    swap "$target"
  done
  for target in $swapped_targets; do
    rm -f "$(backup_name "$target")"
  done
  # From here on the new version stays, whatever the service manager says.
  swapped_targets='' made_dirs='' made_group=no
}

# A running program keeps the old file: rename gives the name to a new inode.
swap() {
  staged=$(staged_name "$1")
  if [ ! -L "$1" ] && cmp -s "$staged" "$1" && same_mode "$staged" "$1"; then
    rm -f "$staged"
    say "unchanged  $1"
    return
  fi
  backup=$(backup_name "$1")
  verb=installed
  if [ -e "$1" ] || [ -L "$1" ]; then
    verb=replaced
    ln "$1" "$backup" 2>/dev/null || cp -pP "$1" "$backup" ||
      fail "cannot keep a copy of $1 in ${1%/*}"
  fi
  # On disk before it has its name, or a power cut could leave an empty file.
  sync "$staged" 2>/dev/null || sync
  swapped_targets="$swapped_targets $1"
  mv -f "$staged" "$1" || fail "cannot put the new version to $1"
  say "$(printf '%-10s %s' "$verb" "$1")"
  case $1 in
    "$socket_unit") socket_changed=yes ;;
    "$service_unit") service_changed=yes ;;
    *) binary_changed=yes ;;
  esac
}

same_mode() {
  [ "$(stat -c %a "$1")" = "$(stat -c %a "$2")" ]
}

# Only the agent reads the tokens, so nobody else may enter.
make_state_dir() {
  if [ -d "$state_dir" ]; then
    say "unchanged  $state_dir"
    return
  fi
  make_dir "$state_dir"
  chmod 0700 "$state_dir"
  if [ "$mode" = system ]; then
    chown "root:$group" "$state_dir" || fail "cannot give $state_dir to the group $group"
  fi
  say "created    $state_dir"
}

add_group() {
  [ "$mode" = system ] || return 0
  if has_group; then
    say "unchanged  group $group"
    return
  fi
  if command -v groupadd >/dev/null 2>&1; then
    groupadd -r "$group" || fail "cannot create the group $group: groupadd failed"
  else
    addgroup -S "$group" || fail "cannot create the group $group: addgroup failed"
  fi
  made_group=yes
  say "created    group $group"
}

remove_group() {
  if command -v groupdel >/dev/null 2>&1; then
    groupdel "$group"
  else
    delgroup "$group"
  fi
}

allow_users() {
  for name in $allowed; do
    case " $(id -nG "$name") " in
      *" $group "*) say "unchanged  $name is in the group $group" && continue ;;
    esac
    if command -v usermod >/dev/null 2>&1; then
      usermod -aG "$group" "$name" || fail "cannot add $name to the group $group: usermod failed"
    else
      addgroup "$name" "$group" || fail "cannot add $name to the group $group: addgroup failed"
    fi
    say "added      $name to the group $group (from the next login on)"
  done
}

# --- The service -----------------------------------------------------------------

start_service() {
  if ! has_systemd; then
    explain_start
    return
  fi
  if [ "$socket_changed$service_changed" != nono ]; then
    ask_systemd daemon-reload
  fi
  warn_of_strangers
  if [ "$socket_changed" = yes ] && service_manager is-active --quiet $program.socket; then
    restart_socket
  else
    ask_systemd enable --now $program.socket
    if [ "$binary_changed$service_changed" != nono ]; then
      ask_systemd try-restart $program.service
    fi
  fi
  say "systemd    $program.socket is enabled; it starts the agent on the first claim"
}

# systemd would take the socket's name from an agent that somebody started by hand.
warn_of_strangers() {
  ! service_manager is-active --quiet $program.socket || return 0
  for pid in $(running "$binary" serve); do
    [ "$(stat -c %u "/proc/$pid" 2>/dev/null)" = "$uid" ] || continue
    warn "agent $pid was not started by systemd, whose own agent cannot start beside it"
    printf 'hint: end it (locks stay): kill %s\n' "$pid" >&2
  done
}

# A socket is not restarted under its running service. Holders stay: KillMode=process.
restart_socket() {
  was_active=no
  ! service_manager is-active --quiet $program.service || was_active=yes
  ask_systemd stop $program.service
  ask_systemd restart $program.socket
  ask_systemd enable $program.socket
  [ "$was_active" = no ] || ask_systemd start $program.service
}

ask_systemd() {
  problem=$(service_manager "$@" 2>&1) ||
    fail "the files are installed, but \"systemctl $*\" failed: $problem" \
      "see: journalctl -u $program"
}

explain_start() {
  say "no systemd units were written. To start the agent:"
  say "    $binary serve"
  old=$(running "$binary" serve)
  if [ "$binary_changed" = yes ] && [ -n "$old" ]; then
    say "an agent runs with the old version; locks stay when it is ended: kill $old"
  fi
}

run_doctor() {
  say "$version is installed; \"$program doctor\" says:"
  status=0
  report=$("$binary" doctor 2>&1 </dev/null) || status=$?
  if [ $status -eq 0 ]; then
    say "$report"
  else
    printf '%s\n' "$report" >&2
    warn "$program doctor found something to mend (exit code $status); the installation is complete"
  fi
  case ":${PATH:-}:" in
    *":${binary%/*}:"*) ;;
    *) say "${binary%/*} is not in PATH" ;;
  esac
}

describe_install() {
  check_would_be_sum
  make_work_dir
  [ "$mode" = user ] || has_group || say "would create   group $group"
  [ -d "$state_dir" ] || say "would create   $state_dir"
  describe_file "$binary" "$source"
  cat_holder >"$work_dir/holder" 2>/dev/null || rm -f "$work_dir/holder"
  describe_file "$holder" "$work_dir/holder"
  if has_systemd; then
    "${mode}_socket_unit" >"$work_dir/socket"
    "${mode}_service_unit" >"$work_dir/service"
    describe_file "$socket_unit" "$work_dir/socket"
    describe_file "$service_unit" "$work_dir/service"
    say "would enable   $program.socket"
  fi
  for name in $allowed; do
    case " $(id -nG "$name") " in
      *" $group "*) ;;
      *) say "would add      $name to the group $group" ;;
    esac
  done
}

check_would_be_sum() {
  if [ -n "$source" ]; then
    check_sum "$source"
  else
    say "would download $from"
  fi
}

describe_file() { # TARGET NEW
  if [ ! -e "$1" ]; then
    say "would install  $1"
  elif [ -f "$2" ] && cmp -s "$1" "$2"; then
    say "unchanged      $1"
  else
    say "would replace  $1"
  fi
}

# The holder comes out of the agent; one that cannot run in place shows as a replacement.
cat_holder() {
  [ -n "$source" ] && [ -x "$source" ] || return 1
  "$source" holder --write "$work_dir/image" >/dev/null 2>&1 </dev/null || return 1
  cat "$work_dir/image"
}

# --- Uninstall ---------------------------------------------------------------------

uninstall() {
  swapped_targets='' staged_targets='' made_dirs='' made_group=no
  if [ -d "$prefix" ] && [ "$dry_run" = no ]; then
    lock_out_others
  fi
  [ -e /proc/self/stat ] || [ "$force" = yes ] ||
    fail "cannot tell whether locks are held: /proc is not mounted" \
      "mount it, or go on without knowing with --force"
  held=$(running "$holder" holder)
  if [ -n "$held" ] && [ "$force" = no ]; then
    # shellcheck disable=SC2086 # one word a pid
    set -- $held
    fail "cannot uninstall from $prefix: $# lock(s) are held, by the holders $held" \
      "release them (sshlock-agent list shows whose they are), or end them with --force"
  fi
  removed=no
  stop_service
  stop_processes "$(running "$binary" serve)" "agent"
  stop_processes "$held" "holder"
  for path in "$socket_unit" "$service_unit" "$binary" "$holder"; do
    remove "$path"
  done
  remove_dir "${holder%/*}"
  if [ -n "$(find "$runtime_dir" -prune -type d -user "$uid" 2>/dev/null)" ]; then
    remove_tree "$runtime_dir"
  fi
  reload_systemd
  if [ "$purge" = yes ]; then
    purge_state
  elif [ -d "$state_dir" ]; then
    say "kept       $state_dir (tokens must never repeat; --purge removes it)"
  fi
  [ ! -e "$config_file" ] || say "kept       $config_file (written by you, not by install.sh)"
  [ "$removed" = yes ] || say "nothing is installed in $prefix"
}

stop_service() {
  has_systemd || return 0
  [ -e "$socket_unit" ] || [ -e "$service_unit" ] || return 0
  if [ "$dry_run" = yes ]; then
    say "would stop     $program.socket and $program.service"
    return
  fi
  problem=$(service_manager disable --now $program.socket $program.service 2>&1) ||
    fail "cannot stop $program: systemctl said: $problem"
  say "stopped    $program.socket and $program.service"
}

reload_systemd() {
  [ "$dry_run" = no ] && [ "$removed" = yes ] && has_systemd || return 0
  ask_systemd daemon-reload
}

# Prints the pids of our agents (serve) or of our holders that have a lock (holder).
# An upgraded program shows as "PATH (deleted)". Another pid namespace is a container's.
running() { # EXECUTABLE serve|holder
  own_namespace=$(readlink /proc/self/ns/pid) || return 0
  folder=$(cd -P "${1%/*}" 2>/dev/null && pwd) || folder=${1%/*}
  executable=$folder/${1##*/}
  found=''
  for process in /proc/[0-9]*; do
    case $(readlink "$process/exe" 2>/dev/null) in
      "$executable" | "$executable (deleted)") ;;
      *) continue ;;
    esac
    [ "$(readlink "$process/ns/pid" 2>/dev/null)" = "$own_namespace" ] || continue
    case $2:$(tr '\0' ' ' <"$process/cmdline" 2>/dev/null) in
      serve:*" serve "* | holder:session-lock-*) found="$found ${process#/proc/}" ;;
    esac
  done
  echo "${found# }"
}

stop_processes() { # PIDS WHAT
  for pid in $1; do
    if [ "$dry_run" = yes ]; then
      say "would end      $2 $pid"
    else
      kill "$pid" 2>/dev/null || continue
      say "ended      $2 $pid"
      wait_until_gone "$pid"
    fi
  done
}

# Signals are no use to wait for another's child: looks ten times a second, for five.
wait_until_gone() {
  tries=50
  while [ $tries -gt 0 ] && kill -0 "$1" 2>/dev/null; do
    case $(cat "/proc/$1/stat" 2>/dev/null) in *") Z "*) return ;; esac
    sleep 0.1
    tries=$((tries - 1))
  done
  [ $tries -gt 0 ] || kill -KILL "$1" 2>/dev/null || :
}

remove() {
  [ -e "$1" ] || [ -L "$1" ] || return 0
  removed=yes
  if [ "$dry_run" = yes ]; then
    say "would remove   $1"
  else
    rm -f "$1" || fail "cannot remove $1"
    say "removed    $1"
  fi
}

remove_dir() {
  [ -d "$1" ] && [ "$dry_run" = no ] || return 0
  rmdir "$1" 2>/dev/null || warn "$1 is kept: it has other files"
}

remove_tree() {
  removed=yes
  if [ "$dry_run" = yes ]; then
    say "would remove   $1"
  else
    rm -rf "$1" || fail "cannot remove $1"
    say "removed    $1"
  fi
}

purge_state() {
  [ ! -L "$state_dir" ] || fail "cannot remove $state_dir: it is a symbolic link"
  [ ! -d "$state_dir" ] || remove_tree "$state_dir"
  [ "$mode" = system ] && has_group || return 0
  removed=yes
  if [ "$dry_run" = yes ]; then
    say "would remove   group $group"
  else
    remove_group || fail "cannot remove the group $group"
    say "removed    group $group"
  fi
}

# --- Units: docs/install.md gives the reason for each line ---------------------------

system_socket_unit() {
  cat <<END
[Unit]
Description=sshlock agent socket

[Socket]
ListenStream=$runtime_dir/agent.sock
SocketUser=root
SocketGroup=$group
SocketMode=0660
# The service narrows it to 0750 root:$group; until then members must get through.
DirectoryMode=0755
Backlog=512
# The default gives the socket up for good after 20 starts in 2 s.
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target
END
}

system_service_unit() {
  cat <<END
[Unit]
Description=sshlock agent
Requires=$program.socket
After=$program.socket
# Without an agent sessions cannot resume, and locks of ended ones stay: never stop trying.
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=$binary serve
Restart=always
RestartSec=500ms
# Holders outlive the agent, for the next one to take over: the default would kill them.
KillMode=process
OOMPolicy=continue
OOMScoreAdjust=-900
# Three descriptors and one process for each lock.
LimitNOFILE=524288
TasksMax=infinity
Group=$group
UMask=0027
RuntimeDirectory=sshlock
RuntimeDirectoryMode=0750
RuntimeDirectoryPreserve=yes
StateDirectory=sshlock
StateDirectoryMode=0700
UnsetEnvironment=BUN_OPTIONS BUN_BE_BUN
Environment=BUN_GC_TIMER_DISABLE=1

# Hardening. Left out on purpose, because the agent must see the host as it is:
# ProtectProc, ProcSubset, ProtectHostname, PrivateDevices, PrivateUsers, PrivateIPC,
# PrivatePIDs, PrivateNetwork. And MemoryDenyWriteExecute, because the runtime compiles
# code as it runs.
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @module @mount @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM

[Install]
Also=$program.socket
END
}

user_socket_unit() {
  cat <<END
[Unit]
Description=sshlock agent socket of this user

[Socket]
ListenStream=%t/sshlock/agent.sock
SocketMode=0600
DirectoryMode=0700
Backlog=512
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target
END
}

user_service_unit() {
  cat <<END
[Unit]
Description=sshlock agent of this user
Requires=$program.socket
After=$program.socket
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=$binary serve
Restart=always
RestartSec=500ms
KillMode=process
OOMPolicy=continue
TasksMax=infinity
UMask=0077
UnsetEnvironment=BUN_OPTIONS BUN_BE_BUN
Environment=BUN_GC_TIMER_DISABLE=1
NoNewPrivileges=yes

[Install]
Also=$program.socket
END
}

# --- Output and cleaning up ------------------------------------------------------------

say() {
  [ "$quiet" = yes ] || printf '%s\n' "$1"
}

warn() {
  printf 'install.sh: %s\n' "$1" >&2
}

fail() { # MESSAGE [HINT]
  warn "$1"
  [ -z "${2:-}" ] || printf 'hint: %s\n' "$2" >&2
  exit 125
}

clean_up() {
  status=$?
  trap '' HUP INT TERM
  for target in ${swapped_targets:-}; do
    restore "$target"
  done
  for target in ${staged_targets:-}; do
    rm -f "$(staged_name "$target")"
  done
  [ -z "${lock_dir:-}" ] || rm -rf "$lock_dir"
  [ -z "${work_dir:-}" ] || rm -rf "$work_dir"
  if [ "$status" -ne 0 ]; then
    [ "${made_group:-no}" = no ] || remove_group || warn "the group $group is left behind"
    for dir in ${made_dirs:-}; do
      rmdir "$dir" 2>/dev/null || :
    done
    # What set -e ended, and not fail(), has its own code.
    [ "$status" -ge 125 ] || status=125
  fi
  exit "$status"
}

# Gives a swapped name back to the file that had it. A staged file that is still there
# says that its swap never came about.
restore() {
  backup=$(backup_name "$1")
  if [ -e "$(staged_name "$1")" ]; then
    rm -f "$backup"
  elif [ -e "$backup" ] || [ -L "$backup" ]; then
    mv -f "$backup" "$1" || warn "$1 could not be restored: its old version is $backup"
  elif [ -e "$1" ]; then
    rm -f "$1" || warn "$1 is left behind"
  fi
}

main "$@"
