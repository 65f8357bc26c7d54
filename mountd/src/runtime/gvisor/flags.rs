//! Which flags of runsc a template may add.
//!
//! # Invariants
//! - Whatever is added, a program's write to a volume is a write on the host's mount before it returns, the host's files are
//!   never changed, and the driver finds its sandboxes again. So only what is known to keep that may be added: runsc is the superuser, and many of
//!   its flags name files.

use crate::runtime::{RuntimeError, Sandbox};

/// The setting's name in a template.
const SETTING: &str = "runtimeFlags";

/// Flags that may be added; of some, not every value.
const ALLOWED: &[&str] = &[
    "app-huge-pages",
    "buffer-pooling",
    "dcache",
    "debug",
    "directfs",
    "enable-core-tags",
    "file-access",
    "file-access-mounts",
    "gso",
    "gvisor-gro",
    "log-packets",
    "net-raw",
    "network-processors-per-channel",
    "num-network-channels",
    "overlay2",
    "qdisc",
    "rx-checksum-offload",
    "software-gso",
    "strace",
    "strace-log-size",
    "strace-syscalls",
    "tx-checksum-offload",
    "watchdog-action",
];

/// Checks all flags of a sandbox.
pub(super) fn check(sandbox: &Sandbox) -> Result<(), RuntimeError> {
    sandbox.machine.runtime_flags.iter().try_for_each(|flag| {
        check_one(flag).map_err(|why| RuntimeError::Refused { setting: format!("{SETTING} {flag}"), why })
    })
}

fn check_one(flag: &str) -> Result<(), String> {
    if flag.contains("dev.gvisor.") {
        return Err("mount hints and flags in annotations let gVisor keep writes to itself".to_owned());
    }
    let Some((name, value)) = flag
        .strip_prefix("--")
        .or_else(|| flag.strip_prefix('-'))
        .and_then(|flag| flag.split_once('='))
        .filter(|(name, _)| !name.is_empty() && !name.starts_with('-'))
    else {
        return Err("write it as --name=value".to_owned());
    };
    match name {
        "overlay2" if !value.starts_with("root:") => {
            Err("changes must go to memory for the root, and for nothing else: with an overlay over mounts, writes \
                 would never reach the volume; use root:memory or root:dir=DIR"
                .to_owned())
        }
        "overlay2" if value != "root:memory" && !value.starts_with("root:dir=/") => {
            Err("changes of the root would be stored in the root itself; use root:memory or root:dir=DIR".to_owned())
        }
        "file-access-mounts" if value != "shared" => {
            Err("with exclusive access gVisor writes later, or never: a snapshot of the volume would miss it".to_owned())
        }
        _ if ALLOWED.contains(&name) => Ok(()),
        _ => Err(format!("only {} may be added", ALLOWED.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_by_which_writes_would_bypass_a_volume_are_refused() {
        for flag in [
            "--overlay2=all:memory",
            "--overlay2=all:self",
            "-overlay2=all:dir=/tmp",
            "--overlay2=none",
            "--overlay2=root:self",
            "--overlay2=root:dir=relative",
            "--overlay=true",
            "--file-access-mounts=exclusive",
            "-file-access-mounts=exclusive",
            "--allow-flag-override=true",
            "--pod-init-config=dev.gvisor.spec.mount.home.share=container",
            "dev.gvisor.spec.mount.home.share=pod",
            "--TESTONLY-unsafe-nonroot=true",
            "--root=/elsewhere",
            "--network=host",
            "--host-uds=all",
            "--host-fifo=open",
            "--fsgofer-host-uds=true",
            "--platform_device_path=/dev/sda",
            "--nvproxy=true",
        ] {
            assert!(check_one(flag).is_err(), "{flag}");
        }
    }

    /// runsc is the superuser on the host.
    #[test]
    fn flags_by_which_runsc_would_write_files_of_the_host_are_refused() {
        for name in [
            "debug-log",
            "debug-log-fd",
            "pcap-log",
            "panic-log",
            "panic-log-fd",
            "log-fd",
            "coverage-report",
            "profile-cpu",
            "profile-heap",
            "profiling-metrics-log",
            "trace",
            "version",
            "pod-init-config",
            "metric-server",
        ] {
            assert!(check_one(&format!("--{name}=/etc/passwd")).is_err(), "{name}");
            assert!(check_one(&format!("-{name}=1")).is_err(), "{name}");
        }
    }

    #[test]
    fn a_flag_whose_value_is_the_next_word_is_refused() {
        for flag in
            ["--overlay2", "-debug", "overlay2=all:memory", "--", "-", "", "--=x", "---overlay2=all:memory"]
        {
            assert_eq!(check_one(flag), Err("write it as --name=value".to_owned()), "{flag:?}");
        }
    }

    #[test]
    fn other_flags_pass() {
        for flag in [
            "--overlay2=root:memory",
            "--overlay2=root:dir=/var/tmp",
            "--file-access-mounts=shared",
            "--directfs=false",
            "--debug=true",
            "--strace=true",
            "-strace-syscalls=read,write",
            "--net-raw=true",
            "--dcache=100",
            "--watchdog-action=panic",
            "--file-access=shared",
            "--gso=false",
        ] {
            assert_eq!(check_one(flag), Ok(()), "{flag}");
        }
    }
}
