# shellcheck shell=bash
# Mounting: durdir volumes on a store of the script's own, and what they are compared with.
#
# Every mount made here is registered for unmounting, and every daemon is known by its pid: nothing that a
# script did not start itself is ever touched.

# --- durdir ---------------------------------------------------------------------------------------

# start_store DIR [COMMAND PREFIX...]: a mountd of our own on the store DIR, e.g. behind `taskset -c 0`.
# Sets STORE and STORE_PID.
start_store() {
    local dir=$1 i
    shift
    mkdir -p "$dir"
    STORE=$dir
    "$@" "$MOUNTD" --store "$dir" --foreground >"$dir.log" 2>&1 &
    STORE_PID=$!
    defer stop_store "$dir" "$STORE_PID"
    for ((i = 0; i < 200; i++)); do
        if [ -S "$dir/mountd.sock" ] && durdir volume ls >/dev/null 2>&1; then
            return 0
        fi
        kill -0 "$STORE_PID" 2>/dev/null || break
        sleep 0.05
    done
    cat "$dir.log" >&2
    die "mountd did not come up on $dir"
}

# Mounts go first: a daemon that is asked to end while a mount is busy may rightly refuse.
stop_store() {
    local pid=$2 pids
    unmount_volumes
    # A supervisor that had to be killed leaves its worker behind.
    mapfile -t pids < <(store_pids "$pid")
    stop_process "$pid"
    for pid in "${pids[@]:1}"; do
        stop_process "$pid"
    done
    wait "$2" 2>/dev/null
    return 0
}

# Unmounts every volume this script, or a program it ran, has mounted: those below its scratch directory.
unmount_volumes() {
    local mounted
    mapfile -t mounted < <(awk -v below="$WORK/" '
        index($5, below) == 1 {
            for (i = 7; i < NF; i++) if ($i == "-" && $(i + 1) ~ /^fuse/ && $(i + 1) != "fuse.fuse-overlayfs") print $5
        }' /proc/self/mountinfo | tac)
    local mountpoint
    for mountpoint in "${mounted[@]}"; do
        unmount "$mountpoint"
    done
}

durdir() { command "$DURDIR" --store "$STORE" "$@"; }

# mount_volume VOLUME MOUNTPOINT [OPTION OF durdir mount...]
mount_volume() {
    local volume=$1 mountpoint=$2
    shift 2
    mkdir -p "$mountpoint"
    durdir mount "$volume" "$mountpoint" "$@" >/dev/null
    is_mounted "$mountpoint" || die "durdir mount $volume $mountpoint returned, but nothing is mounted there"
}

unmount_volume() { durdir umount "$1" >/dev/null; }

is_mounted() { mountpoint -q "$1" 2>/dev/null; }

# Every pid of the daemon: the one we started and what it started (supervisor and worker).
store_pids() {
    local pid=$1 child children
    printf '%s\n' "$pid"
    read -r -a children < <(cat "/proc/$pid/task/"*/children 2>/dev/null | tr '\n' ' ') || true
    for child in "${children[@]}"; do
        store_pids "$child"
    done
}

# Ends the private mountd that `durdir` itself started on a store of ours. It ends on its own some time after
# the last unmount; a script that removes the store cannot wait for that. Known by the store in its arguments.
end_private_daemon() {
    local store=$1 pid
    unmount_volumes
    for pid in $(private_daemons "$store"); do
        stop_process "$pid"
    done
}

private_daemons() {
    local entry arguments
    for entry in /proc/[0-9]*; do
        [ "$(readlink "$entry/exe" 2>/dev/null)" = "$(readlink -f "$MOUNTD")" ] || continue
        mapfile -d '' -t arguments <"$entry/cmdline" 2>/dev/null || continue
        if [[ " ${arguments[*]} " == *" $1 "* ]]; then
            printf '%s\n' "${entry#/proc/}"
        fi
    done
}

# The last resort of a clean-up: unmounts if mounted, lazily if something still holds it.
unmount() {
    is_mounted "$1" || return 0
    umount "$1" 2>/dev/null || umount --lazy "$1"
}

# --- what we compare with -------------------------------------------------------------------------

# mount_disk FSTYPE IMAGE MIB MOUNTPOINT: a file system of its own on a loop device, e.g. ext4 or btrfs.
#
# The image is written in full beforehand and used with direct I/O, so that it behaves like a disk: nothing is
# cached twice, nothing is allocated behind it. What the machine's own file system happens to be (without a
# journal, say, or with a discard for each freed extent) then decides nothing.
mount_disk() {
    local type=$1 image=$2 mebibytes=$3 mountpoint=$4 device
    dd if=/dev/zero of="$image" bs=1M count="$mebibytes" oflag=direct status=none
    device=$(losetup --find --show --direct-io=on "$image")
    defer losetup --detach "$device"
    case $type in
        ext4) mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$device" ;;
        *) quietly "mkfs.$type" -q "$device" ;;
    esac
    mkdir -p "$mountpoint"
    mount -t "$type" "$device" "$mountpoint"
    defer unmount "$mountpoint"
}

# mount_kernel_overlay LOWER UPPER WORK MOUNTPOINT
mount_kernel_overlay() {
    mkdir -p "$2" "$3" "$4"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"
    defer unmount "$4"
}

# mount_fuse_overlayfs LOWER UPPER WORK MOUNTPOINT [COMMAND PREFIX...]; sets FUSE_OVERLAYFS_PID.
mount_fuse_overlayfs() {
    local lower=$1 upper=$2 scratch=$3 mountpoint=$4 i
    shift 4
    mkdir -p "$upper" "$scratch" "$mountpoint"
    "$@" fuse-overlayfs -f -o "lowerdir=$lower,upperdir=$upper,workdir=$scratch,allow_other" "$mountpoint" &
    FUSE_OVERLAYFS_PID=$!
    defer stop_process "$FUSE_OVERLAYFS_PID"
    defer unmount "$mountpoint"
    for ((i = 0; i < 100; i++)); do
        is_mounted "$mountpoint" && return 0
        sleep 0.05
    done
    die "fuse-overlayfs did not mount $mountpoint"
}
