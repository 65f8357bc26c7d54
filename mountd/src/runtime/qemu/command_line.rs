//! The command line of a machine. It depends on the sandbox alone: a memory image only fits into a machine that is built the same.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::accelerator::Kind;
use crate::runtime::preflight::refused;
use crate::runtime::virtiofsd::shares;
use crate::runtime::{Network, RuntimeError, Sandbox};

/// Memory of a machine whose template does not say.
const MEMORY: u64 = 512 << 20;

/// Flags that a template may add, each followed by its value.
const ALLOWED: [&str; 4] = ["-cpu", "-device", "-global", "-rtc"];

/// Where a machine with a link finds itself, its gateway, and who resolves names: QEMU's own user network.
pub(super) const ADDRESS: &str = "10.0.2.15/24";
const GATEWAY: &str = "10.0.2.2";
const RESOLVER: &str = "10.0.2.3";

/// Names of files in the sandbox's directory. QEMU is started there: a socket's address has little room.
pub(super) const MONITOR: &str = "qmp.sock";
pub(super) const SECOND_MONITOR: &str = "qmp-2.sock";
pub(super) const STATUS: &str = "status";
pub(super) const PID: &str = "qemu.pid";
pub(super) const INITRAMFS: &str = "initramfs";

/// Whether a machine begins from its kernel, or from saved memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begin {
    Kernel,
    Memory,
}

/// Checks what a template adds.
pub(super) fn check_flags(sandbox: &Sandbox) -> Result<(), RuntimeError> {
    for pair in sandbox.machine.runtime_flags.chunks(2) {
        let [flag, value] = pair else {
            return Err(refused("runtimeFlags", "each flag is followed by its value, as a word of its own"));
        };
        let setting = format!("runtimeFlags {flag}");
        if !ALLOWED.contains(&flag.as_str()) {
            return Err(refused(setting, format!("only {} may be added", ALLOWED.join(", "))));
        }
        // Such a device would give the guest a directory past virtiofsd's settings, or map file pages into the guest.
        if ["vhost-user-fs", "virtio-9p", "cache-size"].iter().any(|word| value.contains(word)) {
            return Err(refused(
                setting,
                "volumes are attached by mountd, and never by DAX: writes would bypass the mount",
            ));
        }
    }
    Ok(())
}

/// Returns what the guest is told of its network.
pub(super) fn network_of_the_guest(sandbox: &Sandbox) -> String {
    match sandbox.network {
        // It is reached from outside, and reaches nobody.
        Network::None | Network::Host => format!("{ADDRESS}\n"),
        Network::Own => format!("{ADDRESS} {GATEWAY} {RESOLVER}\n"),
    }
}

/// Adds everything to a command of QEMU.
pub(super) fn add_to(
    command: &mut Command,
    sandbox: &Sandbox,
    kernel: &Path,
    console: &str,
    kind: Kind,
    begin: Begin,
) {
    let machine = &sandbox.machine;
    let memory = if machine.memory_bytes == 0 { MEMORY } else { machine.memory_bytes };
    let cpus = machine.cpus.max(1);
    command.current_dir(&sandbox.directory);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-daemonize",
        "-pidfile",
        PID,
    ]);
    command.args(["-M", "q35", "-accel", kind.name(), "-cpu", kind.processor()]);
    command.args(["-smp", &cpus.to_string(), "-m", &format!("{memory}B")]);
    // Shared, since virtiofsd reads and writes it; not of a file, since it is saved as a whole.
    command.args(["-object", &format!("memory-backend-memfd,id=memory,size={memory}B,share=on")]);
    command.args(["-numa", "node,memdev=memory"]);
    command.arg("-kernel").arg(kernel).args(["-initrd", INITRAMFS]);
    // `no_timer_check`: an emulated processor may be too busy to pass it.
    let own = "console=ttyS0 durdir.status=ttyS1 reboot=t panic=-1 quiet no_timer_check";
    command.arg("-append").arg(format!("{own} {}", machine.kernel_arguments).trim());

    let files = [("console", console), ("status", STATUS)];
    for (id, path) in files {
        command.args(["-chardev", &format!("file,id={id},path={path},append=on")]);
        command.args(["-serial", &format!("chardev:{id}")]);
    }
    for (id, path) in [("monitor", MONITOR), ("monitor-2", SECOND_MONITOR)] {
        command.args(["-chardev", &format!("socket,id={id},path={path},server=on,wait=off")]);
        command.args(["-mon", &format!("chardev={id},mode=control")]);
    }
    for share in shares(sandbox).into_values() {
        let (tag, socket) = (share.tag(), share.socket());
        command.args(["-chardev", &format!("socket,id={tag},path={socket}")]);
        command.args(["-device", &format!("vhost-user-fs-pci,queue-size=1024,chardev={tag},tag={tag}")]);
    }
    let restrict = if sandbox.network == Network::Own { "off" } else { "on" };
    command.args(["-netdev", &format!("user,id=net,restrict={restrict}")]);
    command.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
    command.args(machine.runtime_flags.iter().map(OsString::from));
    match begin {
        Begin::Kernel => command.arg("-S"),
        Begin::Memory => command.args(["-incoming", "defer"]),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(flags: &[&str]) -> Result<(), RuntimeError> {
        check_flags(&Sandbox {
            id: "vm".to_owned(),
            directory: "/d".into(),
            containers: Vec::new(),
            network: Network::None,
            machine: crate::runtime::Machine {
                runtime_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
                ..Default::default()
            },
        })
    }

    #[test]
    fn flags_that_would_bypass_a_volume_or_take_the_machine_over_are_refused() {
        flags(&[]).unwrap();
        flags(&["-device", "virtio-rng-pci", "-cpu", "qemu64"]).unwrap();
        for refused in [
            ["-virtfs", "local,path=/,mount_tag=x,security_model=none"],
            ["-device", "vhost-user-fs-pci,chardev=v0,tag=x,cache-size=1G"],
            ["-device", "virtio-9p-pci,fsdev=x"],
            ["-incoming", "defer"],
            ["-qmp", "unix:x"],
            ["-device=virtio-rng-pci", "x"],
        ] {
            assert!(flags(&refused).is_err(), "{refused:?}");
        }
        assert!(flags(&["-device"]).is_err());
    }
}
