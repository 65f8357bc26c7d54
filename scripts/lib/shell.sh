# shellcheck shell=bash
# What every script here shares: how it speaks, how it fails, how it cleans up.
#
# Sourced, never run. A script that sources this file has REPO, WORK (its own scratch directory) and the
# guarantee that everything it registered with `defer` is undone, newest first, however it ends.
#
# What is set here is used by the scripts that source this file:
# shellcheck disable=SC2034

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
SCRIPTS=$REPO/scripts
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/durdir
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
TOOLS=$CACHE/tools
export PATH=$TOOLS/bin:$HOME/.cargo/bin:$PATH
export DEBIAN_FRONTEND=noninteractive
export LC_ALL=C.UTF-8
# Nothing is written into the source tree.
export PYTHONDONTWRITEBYTECODE=1
PROGRAM=$(basename "$0")

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
    BOLD='' DIM='' RED='' GREEN='' PLAIN=''
fi

say() { printf '%s\n' "$*"; }
note() { printf '%s%s%s\n' "$DIM" "$*" "$PLAIN"; }
heading() { printf '\n%s%s%s\n' "$BOLD" "$*" "$PLAIN"; }
good() { printf '%s%s%s\n' "$GREEN" "$*" "$PLAIN"; }
bad() { printf '%s%s%s\n' "$RED" "$*" "$PLAIN"; }
die() {
    printf '%s%s: %s%s\n' "$RED" "$PROGRAM" "$*" "$PLAIN" >&2
    exit 1
}

# The usage text of a script is its opening comment, so the two cannot disagree.
usage() { sed -n '2,/^[^#]/{ /^#/!d; s/^# \{0,1\}//; p; }' "$0"; }

need_root() {
    [ "$(id -u)" -eq 0 ] || die "needs root (packages, mounts and sandboxes); run it as root or with sudo"
}

milliseconds() { local t=${EPOCHREALTIME/./}; printf '%s' "${t%???}"; }

# --- clean-up -----------------------------------------------------------------------------------

DEFERRED=()

# Registers a command for the end of the script. Arguments are kept as given: no quoting by the caller.
defer() { DEFERRED+=("$(printf '%q ' "$@")"); }

run_deferred() {
    local status=$? i
    trap '' INT TERM
    set +e
    for ((i = ${#DEFERRED[@]} - 1; i >= 0; i--)); do
        eval "${DEFERRED[i]}"
    done
    exit "$status"
}
trap run_deferred EXIT
# Without these a signal would end bash before it runs the EXIT trap of a script that waits on a child.
trap 'exit 130' INT
trap 'exit 143' TERM

make_work_directory() {
    WORK=$(mktemp -d "${TMPDIR:-/tmp}/durdir-$PROGRAM.XXXXXX")
    # Test programs that change to another user must be able to walk through it to the mounts inside.
    chmod 711 "$WORK"
    defer remove_work_directory "$WORK"
}

# Refuses to descend into what is still mounted: deleting through a mount would delete what it shows.
remove_work_directory() {
    local left
    left=$(mounts_below "$1")
    if [ -n "$left" ]; then
        printf '%s: left in place, still mounted: %s\n' "$PROGRAM" "$(tr '\n' ' ' <<<"$left")" >&2
        return 0
    fi
    rm -rf --one-file-system "$1"
}

mounts_below() { awk -v d="$1/" 'index($5, d) == 1 { print $5 }' /proc/self/mountinfo; }

# Ends a process this script started, and waits until it is gone.
stop_process() {
    local pid=$1 i
    kill -TERM "$pid" 2>/dev/null || return 0
    for ((i = 0; i < 100; i++)); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.05
    done
    kill -KILL "$pid" 2>/dev/null
    return 0
}
