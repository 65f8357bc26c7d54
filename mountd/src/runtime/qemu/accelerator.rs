//! Who executes a guest's instructions.
//!
//! That /dev/kvm can be opened does not mean that a guest gets anywhere with it: where the host is a guest itself, a kernel may hang in
//! it. So with [`Accelerator::Auto`] the kernel is booted once without a root. It panics, which ends the machine: KVM works. The
//! answer is kept in /run until the next boot of the host.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::QEMU;
use crate::runtime::files::{self, at};
use crate::runtime::preflight::refused;
use crate::runtime::{Accelerator, Deadline, RuntimeError, Sandbox};

/// What a machine runs on. Its memory image is bound to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Kvm,
    Tcg,
}

/// A kernel that works has panicked by then.
const TRIAL: Duration = Duration::from_secs(5);

impl Kind {
    /// Returns QEMU's name of it, which is also what is stored.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Kvm => "kvm",
            Kind::Tcg => "tcg",
        }
    }

    /// Returns what was stored.
    pub(super) fn parse(name: &str) -> Option<Kind> {
        [Kind::Kvm, Kind::Tcg].into_iter().find(|kind| kind.name() == name.trim())
    }

    /// Returns the processor that a guest is shown.
    pub(super) fn processor(self) -> &'static str {
        match self {
            Kind::Kvm => "host",
            Kind::Tcg => "max",
        }
    }
}

fn kvm_is_there() -> bool {
    File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// Chooses for a sandbox.
pub(super) fn choose(sandbox: &Sandbox, kernel: &Path, deadline: Deadline) -> Result<Kind, RuntimeError> {
    match sandbox.machine.accelerator {
        Accelerator::Tcg => Ok(Kind::Tcg),
        Accelerator::Kvm if kvm_is_there() => Ok(Kind::Kvm),
        Accelerator::Kvm => Err(refused("accelerator", "/dev/kvm is not there, or must not be opened")),
        Accelerator::Auto if !kvm_is_there() => Ok(Kind::Tcg),
        Accelerator::Auto => {
            let answer = answer_file(kernel)?;
            if let Some(kind) = files::read(&answer)?.as_deref().and_then(Kind::parse) {
                return Ok(kind);
            }
            let kind = if boots(sandbox, kernel, deadline)? { Kind::Kvm } else { Kind::Tcg };
            files::create_directory(Path::new("/run/durdir"))?;
            files::write(&answer, kind.name())?;
            Ok(kind)
        }
    }
}

/// Returns where the answer for a kernel is kept.
fn answer_file(kernel: &Path) -> Result<PathBuf, RuntimeError> {
    let metadata = kernel.metadata().map_err(at("read", kernel))?;
    let mut hasher = DefaultHasher::new();
    (kernel, metadata.len(), metadata.mtime(), metadata.mtime_nsec()).hash(&mut hasher);
    Ok(format!("/run/durdir/kvm-{:016x}", hasher.finish()).into())
}

/// Tells whether a kernel gets as far with KVM as to miss its root.
fn boots(sandbox: &Sandbox, kernel: &Path, deadline: Deadline) -> Result<bool, RuntimeError> {
    let mut command = QEMU.command(sandbox);
    command.args([
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-M",
        "q35",
        "-m",
        "256",
        "-nodefaults",
        "-no-user-config",
    ]);
    command.args(["-display", "none", "-no-reboot", "-kernel"]).arg(kernel).args(["-append", "panic=-1"]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    match QEMU.finish(&mut command, "try KVM", deadline.at_most(TRIAL)) {
        Ok(finished) => Ok(finished.status.success()),
        Err(RuntimeError::TimedOut { .. }) if !deadline.passed() => Ok(false),
        Err(error) => Err(error),
    }
}
