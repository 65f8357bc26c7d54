# shellcheck shell=bash
# What microVMs need: a kernel, an initial file system, and virtiofsd.
#
# What is set here is used by the scripts that source this file:
# shellcheck disable=SC2034

# In the order in which they are loaded.
MICROVM_MODULES=(drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_modern_dev
    drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci fs/fuse/fuse fs/fuse/virtiofs
    net/core/failover drivers/net/net_failover drivers/net/virtio_net)

VIRTIOFSD_VERSION=1.14.0

# virtiofsd is not among Debian 12's packages in a version that takes part in a save.
install_virtiofsd() {
    install_packages libcap-ng-dev libseccomp-dev pkg-config gcc
    install_tool virtiofsd "$VIRTIOFSD_VERSION"
}

# make_microvm DIRECTORY: DIRECTORY/vmlinuz and DIRECTORY/initramfs, with examples/microvm/init as its init.
make_microvm() {
    local target=$1 root modules module
    install_packages busybox-static cpio
    fetch_guest_kernel
    root=$(mktemp -d "$WORK/microvm.XXXXXX")
    # It becomes the guest's root, which every user walks through.
    chmod 755 "$root"
    mkdir -p "$root"/{bin,dev,etc,modules,proc,sys,tmp} "$target"
    cp /bin/busybox "$root/bin/busybox"
    cp "$REPO/examples/microvm/init" "$root/init"
    modules=$(echo "$KERNEL"/lib/modules/*)
    for module in "${MICROVM_MODULES[@]}"; do
        cp "$modules/kernel/$module.ko" "$root/modules/"
        echo "${module##*/}" >>"$root/modules/order"
    done
    # Not compressed: an emulated processor takes longer to unpack it than this one to read it.
    (cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc --reproducible) >"$target/initramfs.new"
    mv "$target/initramfs.new" "$target/initramfs"
    cp --dereference "$KERNEL"/boot/vmlinuz-* "$target/vmlinuz.new"
    mv "$target/vmlinuz.new" "$target/vmlinuz"
}
