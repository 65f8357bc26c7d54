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
const FLAGS: [&str; 4] = ["-cpu", "-device", "-global", "-rtc"];

/// Models that `-device` may add. None reads or writes a file of the host, or gives the guest a way to one.
const DEVICES: [&str; 6] =
    ["virtio-rng-pci", "virtio-balloon-pci", "i6300esb", "pvpanic-pci", "vmgenid", "vmcoreinfo"];

/// What may be said of them. Any device on the PCI bus would take a `romfile` of the host.
const PROPERTIES: [&str; 11] = [
    "id",
    "bus",
    "addr",
    "disable-legacy",
    "disable-modern",
    "max-bytes",
    "period",
    "deflate-on-oom",
    "free-page-reporting",
    "events",
    "guid",
];

/// What `-global` may set.
const GLOBALS: [&str; 5] = [
    "kvm-pit.lost_tick_policy",
    "mc146818rtc.lost_tick_policy",
    "ICH9-LPC.disable_s3",
    "ICH9-LPC.disable_s4",
    "ICH9-LPC.noreboot",
];

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
        let only = |known: &[&str]| Err(refused(&setting, format!("only {} may be added", known.join(", "))));
        match flag.as_str() {
            "-device" => {
                let mut parts = value.split(',');
                if !parts.next().is_some_and(|model| DEVICES.contains(&model)) {
                    return only(&DEVICES);
                }
                if !parts.all(|part| PROPERTIES.contains(&name_in(part))) {
                    return only(&PROPERTIES);
                }
            }
            "-global" if value.contains(',') || !GLOBALS.contains(&name_in(value)) => return only(&GLOBALS),
            flag if !FLAGS.contains(&flag) => return only(&FLAGS),
            _ => {}
        }
    }
    Ok(())
}

/// Returns the name of `NAME=VALUE`.
fn name_in(assignment: &str) -> &str {
    assignment.split_once('=').map_or(assignment, |(name, _)| name)
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
        for accepted in [
            ["-device", "virtio-rng-pci"],
            ["-device", "virtio-rng-pci,max-bytes=1024,period=1000"],
            ["-device", "virtio-balloon-pci,deflate-on-oom=on"],
            ["-cpu", "max,-sse4a"],
            ["-rtc", "base=utc,clock=vm"],
            ["-global", "kvm-pit.lost_tick_policy=discard"],
        ] {
            assert!(flags(&accepted).is_ok(), "{accepted:?}");
        }
        for refused in [
            ["-virtfs", "local,path=/,mount_tag=x,security_model=none"],
            ["-device", "vhost-user-fs-pci,chardev=v0,tag=x,cache-size=1G"],
            ["-device", "virtio-9p-pci,fsdev=x"],
            ["-incoming", "defer"],
            ["-qmp", "unix:x"],
            ["-device=virtio-rng-pci", "x"],
            ["-device", "usb-mtp,rootdir=/"],
            ["-device", "loader,file=/etc/shadow,addr=0"],
            ["-device", "virtio-rng-pci,romfile=/etc/shadow"],
            ["-device", "virtio-rng-pci,,romfile=/etc/shadow"],
            ["-device", "driver=loader,file=/etc/shadow"],
            ["-device", r#"{"driver": "vhost-user-fs-pci", "chardev": "v0"}"#],
            ["-global", "migration.x-ignore-shared=on"],
            ["-global", "driver=migration,property=x-ignore-shared,value=on"],
            ["-global", "virtio-net-pci.romfile=/etc/shadow"],
            ["-global", "kvm-pit.lost_tick_policy=discard,x=y"],
        ] {
            assert!(flags(&refused).is_err(), "{refused:?}");
        }
        assert!(flags(&["-device"]).is_err());
    }
}
