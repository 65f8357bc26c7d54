"""The guest: a stock kernel, busybox, durdir and the workload in memory, and one disk. Emulated, so it needs no KVM."""

import os
import re
import signal
import subprocess
import time

from disk import SECTOR

MODULES = ["drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_modern_dev",
           "drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio_pci", "drivers/block/virtio_blk", "fs/fuse/fuse"]

BOOT_ID = "/proc/sys/kernel/random/boot_id"

# Dirty pages are written out early and without a flush, as they would be on a busy machine after half a minute.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in {modules}; do insmod /modules/$module.ko; done
echo 10 >/proc/sys/vm/dirty_writeback_centisecs
echo 30 >/proc/sys/vm/dirty_expire_centisecs
echo "guest: boot $(cat {boot_id})"
seed=$(sed 's/.*durdir.seed=\\([0-9]*\\).*/\\1/' /proc/cmdline)
first=$(sed 's/.*durdir.first=\\([0-9]*\\).*/\\1/' /proc/cmdline)
mount -t ext4 /dev/vda /mnt || echo "guest: the disk cannot be mounted"
mountd --store /mnt/store --foreground 2>&1 | tee /tmp/mountd.log &
until grep -q "mountd is ready" /tmp/mountd.log 2>/dev/null; do sleep 0.1; done
power-guest /dev/vda {area} $seed $first
echo "guest: the workload ended"
sleep 1000
"""


def libraries(program):
    """The shared libraries of a program, as paths."""
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return {word for line in listed.splitlines() for word in line.split() if word.startswith("/")}


def make_initramfs(target, scratch, kernel, programs, area):
    """Packs the guest's root: `kernel` is the unpacked package, `programs` are copied to /bin."""
    root = os.path.join(scratch, "guest-root")
    for directory in ("bin", "proc", "sys", "dev", "mnt", "volumes", "tmp", "modules", "etc"):
        os.makedirs(os.path.join(root, directory))

    def install(source, path):
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        subprocess.run(["cp", "--dereference", source, root + path], check=True)

    install("/bin/busybox", "/bin/busybox")
    for program in programs:
        installed = "/bin/" + os.path.basename(program)
        install(program, installed)
        subprocess.run(["strip", root + installed], check=True)
        for library in libraries(program):
            install(library, library)
    release, = os.listdir(os.path.join(kernel, "lib/modules"))
    for module in MODULES:
        install(os.path.join(kernel, "lib/modules", release, "kernel", module + ".ko"),
                f"/modules/{os.path.basename(module)}.ko")
    with open(root + "/init", "w") as init:
        init.write(INIT.format(modules=" ".join(os.path.basename(module) for module in MODULES), area=area, boot_id=BOOT_ID))
    os.chmod(root + "/init", 0o755)
    names = subprocess.run(["find", "."], cwd=root, check=True, capture_output=True).stdout
    archive = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], cwd=root, input=names, check=True,
                             capture_output=True).stdout
    # Not compressed: an emulated processor would take longer to unpack it than this one to read it.
    with open(target, "wb") as out:
        out.write(archive)


def vmlinuz(kernel):
    boot = os.path.join(kernel, "boot")
    return os.path.join(boot, next(name for name in os.listdir(boot) if name.startswith("vmlinuz")))


class Guest:
    """A running guest. Its disk forgets nothing by itself: what is lost is decided from the record afterwards."""

    def __init__(self, kernel, initramfs, image, record, console, area, seed, first):
        open(record, "wb").close()
        self.image, self.console, self.area = os.open(image, os.O_RDONLY), console, area
        self.process = subprocess.Popen(
            ["nice", "-n", "5", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", "768", "-smp", "1",
             "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{console}",
             "-kernel", vmlinuz(kernel), "-initrd", initramfs,
             "-append", f"console=ttyS0 panic=-1 quiet no_timer_check durdir.seed={seed} durdir.first={first}",
             "-blockdev", f"driver=file,node-name=disk,filename={image},cache.no-flush=on",
             "-blockdev", f"driver=file,node-name=record,filename={record},cache.no-flush=on",
             "-blockdev", "driver=blklogwrites,node-name=recorded,file=disk,log=record,log-super-update-interval=1",
             "-device", "virtio-blk-pci,drive=recorded,num-queues=1"],
            stdin=subprocess.DEVNULL)

    def has_told(self, number):
        """Tells whether the guest has told its line of that number."""
        return os.pread(self.image, SECTOR, self.area + number * SECTOR).strip(b"\0") != b""

    def wait_for(self, number, deadline):
        """Waits until the guest has told a line. `False` if it did not in time."""
        end = time.monotonic() + deadline
        while not self.has_told(number):
            if self.process.poll() is not None:
                raise SystemExit(f"the guest ended by itself, status {self.process.returncode}:\n{self.console_text()}")
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def kill(self):
        """Takes the power away."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.image)

    def boot_id(self):
        return re.search(r"guest: boot (\S+)", self.console_text()).group(1)

    def console_text(self):
        with open(self.console, errors="replace") as console:
            return console.read()
