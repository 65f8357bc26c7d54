# shellcheck shell=sh
# Runs one container of plain processes. It runs twice: outside, where it stands for the container and notes how it ends, and once
# more inside of its namespaces, where it is process 1, builds the root, and becomes the program.
#
#   sh THIS outside STATE PROCS NETWORK INSIDE...
#   sh THIS inside STATE ID ROOTFS DIRECTORY UID GID N {SOURCE DESTINATION}*N M {NAME=VALUE}*M COMMAND...
#
# STATE is the driver's directory of this container: `started` claims it, `pid`, `entered` once the program is about to run, `exit`
# with its status, `root` for mounts that nobody outside sees. Only tools of util-linux and coreutils are used.
set -eu
PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin
role=$1 state=$2
shift 2

outside() {
    # Whoever makes it runs the container: a call that is made again finds it.
    mkdir "$state/started" 2>/dev/null || exit 0
    echo $$ >"$1"
    echo $$ >"$state/pid"
    network=$2
    shift 2
    set -- unshare --mount --pid --ipc --uts --fork --kill-child --propagation private sh "$0" inside "$state" "$@"
    [ -z "$network" ] || set -- nsenter "--net=$network" "$@"
    status=0
    "$@" || status=$?
    echo "$status" >"$state/exit.new"
    mv "$state/exit.new" "$state/exit"
}

inside() {
    id=$1 rootfs=$2 directory=$3 uid=$4 gid=$5
    shift 5
    echo "$id" >/proc/sys/kernel/hostname
    # Changes of the root go into memory. All paths are relative: those in options may not hold commas and colons.
    mount -t tmpfs -o mode=755 tmpfs "$state/root"
    cd "$state/root"
    mkdir lower upper work merged
    mount --bind "$rootfs" lower
    mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged
    cd merged
    root=$(pwd -P)
    for place in proc dev tmp; do plain "/$place"; done
    mount -t proc -o nosuid,nodev,noexec proc proc
    # What changes the host, and asks for no power but to be its user 0.
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys
    [ ! -e proc/sysrq-trigger ] || mount --bind /dev/null proc/sysrq-trigger
    mount -t tmpfs -o mode=1777 tmpfs tmp
    mount -t tmpfs -o mode=755 tmpfs dev
    for device in null zero full random urandom tty; do
        : >"dev/$device"
        mount --bind "/dev/$device" "dev/$device"
    done
    mkdir dev/shm
    mount -t tmpfs -o mode=1777 tmpfs dev/shm
    ln -s /proc/self/fd dev/fd
    count=$1
    shift
    while [ "$count" -gt 0 ]; do
        plain "$2"
        mount --bind "$1" ".$2"
        shift 2
        count=$((count - 1))
    done
    leave_host
    # The words that are left are rotated: M of them are the environment, which comes first, then what drops powers, then the command.
    count=$1
    shift
    total=$#
    i=0
    while [ "$i" -lt "$total" ]; do
        if [ "$i" -eq "$count" ]; then
            set -- "$@" "$setpriv" "--bounding-set=$dropped" "$unshare" --root=. "--wd=$directory" "--setgid=$gid" "--setuid=$uid" --
        fi
        word=$1
        shift
        set -- "$@" "$word"
        i=$((i + 1))
    done
    : >"${ours%/root}/entered"
    # Names of variables may begin as options do.
    exec env -i -- "$@"
}

# Makes a directory of the root, and refuses if a symbolic link would lead out of it.
plain() {
    if [ "$(readlink -m ".$1")" != "$root$1" ]; then
        echo "a place to mount at leads through a symbolic link: $1" >&2
        exit 1
    fi
    mkdir -p ".$1"
}

# Lets go of the host's mounts, which were copied with the namespace: what is mounted in one stays in use as long as any copy is there.
# What the last steps need stays: where tools and their libraries are, and what is around our own.
leave_host() {
    ours=${root%/merged}
    before=
    while foreign=$(foreign_mounts) && [ -n "$foreign" ]; do
        if [ "$foreign" = "$before" ]; then
            # Those that the kernel locked, since they come from outside of this user namespace. None is a volume.
            echo "mounts of the host stay: $foreign: $said" >&2
            return
        fi
        before=$foreign
        # One that is below another goes with it, and is not found any more.
        said=$(eval "umount -l -i -- $foreign" 2>&1) || :
    done
}

# Lists them, quoted for the shell. The kernel writes some characters in octal.
foreign_mounts() {
    while read -r _ _ _ _ place _; do
        case $place in
            / | /proc | /bin | /sbin | /lib | /lib32 | /lib64 | /libx32 | /nix | /nix/store | /gnu | /gnu/store) continue ;;
            /usr | /usr/bin | /usr/sbin | /usr/lib | /usr/lib32 | /usr/lib64 | /usr/libx32) continue ;;
            "$ours" | "$ours"/*) continue ;;
            *\\*)
                # shellcheck disable=SC2059 # It is a format.
                place=$(printf "$(printf %s "$place" | sed 's/%/%%/g')")
                ;;
        esac
        for kept in "$ours" "$setpriv" "$unshare"; do
            case $kept in "$place"/*) continue 2 ;; esac
        done
        case $place in *\'*) place=$(printf %s "$place" | sed "s/'/'\\\\''/g") ;; esac
        printf "'%s' " "$place"
    done </proc/self/mountinfo
}

# Powers over the host that a namespace does not contain.
dropped=-sys_admin,-sys_module,-sys_rawio,-sys_boot,-sys_time,-sys_ptrace,-syslog,-net_admin,-mknod,-dac_read_search,-mac_admin,-mac_override,-linux_immutable,-bpf,-perfmon,-checkpoint_restore,-audit_control
setpriv=$(command -v setpriv)
unshare=$(command -v unshare)

"$role" "$@"
