# shellcheck shell=bash
# Debian packages: installed when missing, silent when there.
#
# The lists are for the scripts that source this file, and $(…) in single quotes is apt's own format:
# shellcheck disable=SC2034,SC2016

# What the build itself needs: RocksDB is C++, its bindings come from libclang, the API from protoc.
BUILD_PACKAGES=(g++ pkg-config clang libclang-dev protobuf-compiler fuse3 git ca-certificates python3)
# What the tests run on real mounts.
TEST_PACKAGES=(acl attr busybox-static cpio e2fsprogs gcc iproute2 libc6-dev libsqlite3-dev mount postgresql procps sqlite3 tar util-linux)

package_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

APT_UPDATED=no
apt_update() {
    [ "$APT_UPDATED" = no ] || return 0
    quietly apt-get update -qq
    APT_UPDATED=yes
}

# Runs a command silently; its output is shown only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        cat "$log" >&2
        rm -f "$log"
        die "$1 failed with status $status"
    fi
    rm -f "$log"
}

# install_packages NAME...
install_packages() {
    local missing=() name
    for name in "$@"; do
        package_installed "$name" || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    need_root
    note "installing ${missing[*]}"
    apt_update
    quietly apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# Debian 12 ships gVisor with only the slow ptrace platform and no overlay2 setting; its backports suite has
# one with systrap. The archive's address comes from the sources this machine already uses.
install_runsc() {
    # A string, not a pipe into grep -q: under pipefail the reader that stops early would look like a failure.
    if command -v runsc >/dev/null && [[ $(runsc flags 2>&1) == *-overlay2* ]]; then
        return 0
    fi
    need_root
    local codename suite=()
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    if [ "$codename" = bookworm ]; then
        enable_backports "$codename"
        suite=(-t "$codename-backports")
    fi
    note "installing runsc (gVisor)"
    apt_update
    quietly apt-get install -y -qq --no-install-recommends "${suite[@]}" runsc
}

# QEMU of Debian 12 is too old for parts of what is done with it; its backports suite has a current one.
install_qemu() {
    local codename suite=()
    if command -v qemu-system-x86_64 >/dev/null; then
        return 0
    fi
    need_root
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    if [ "$codename" = bookworm ]; then
        enable_backports "$codename"
        suite=(-t "$codename-backports")
    fi
    note "installing QEMU"
    apt_update
    quietly apt-get install -y -qq --no-install-recommends "${suite[@]}" qemu-system-x86
}

# The distribution's kernel for virtual machines, unpacked into the cache and not installed. Sets KERNEL.
fetch_guest_kernel() {
    local package download
    KERNEL=$CACHE/guest-kernel
    if [ -d "$KERNEL/boot" ]; then
        return 0
    fi
    apt_update
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-.*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || die "no linux-image-cloud-amd64 among this machine's packages"
    note "fetching $package"
    download=$(mktemp -d)
    defer rm -rf "$download"
    chmod 755 "$download"
    (cd "$download" && quietly apt-get download -qq "$package")
    mkdir -p "$CACHE"
    rm -rf "$KERNEL.new"
    dpkg-deb --extract "$download"/*.deb "$KERNEL.new"
    mv "$KERNEL.new" "$KERNEL"
}

enable_backports() {
    local codename=$1 archive keyring
    local source=/etc/apt/sources.list.d/$codename-backports.list
    if apt-get indextargets --format '$(CODENAME)' 'Identifier: Packages' | grep -qx "$codename-backports"; then
        return 0
    fi
    archive=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' "Codename: $codename" \
        'Component: main' | head -n 1)
    [ -n "$archive" ] || die "no apt source for $codename main on this machine to derive its backports suite from"
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    printf 'deb [signed-by=%s] %s %s-backports main\n' "$keyring" "$archive" "$codename" >"$source"
    APT_UPDATED=no
}
