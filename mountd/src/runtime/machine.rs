//! What the drivers of machines have in common: one container, a virtiofsd for each volume, and marks in the sandbox's directory.
//!
//! ```text
//!   boot         in which run of the host the machine was made: written last
//!   restoring    a restore was begun and is not over
//! ```

use std::path::PathBuf;
use std::time::Duration;

use super::preflight::refused;
use super::processes::{self, Mark};
use super::{Container, Deadline, Runtime, RuntimeError, Sandbox, files, virtiofsd};

/// How long what is to be cleaned up after a failure may take, whatever was left of the call's own time.
pub(super) const CLEAN_UP: Duration = Duration::from_secs(10);

pub(super) fn kernel(sandbox: &Sandbox) -> Result<PathBuf, RuntimeError> {
    sandbox.machine.kernel.clone().ok_or_else(|| refused("kernel", "a machine needs one"))
}

pub(super) fn only_container(sandbox: &Sandbox) -> Result<&Container, RuntimeError> {
    sandbox.containers.first().ok_or_else(|| refused("containers", "one is needed"))
}

/// Returns the name of the file in the sandbox's directory that gets what the container prints.
pub(super) fn console(sandbox: &Sandbox) -> Result<String, RuntimeError> {
    let output = sandbox.output(&only_container(sandbox)?.name);
    Ok(output.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// Takes note that a machine was made.
pub(super) fn is_made(sandbox: &Sandbox) -> Result<(), RuntimeError> {
    files::write(&boot(sandbox), files::this_boot()?)
}

/// Tells whether a machine was made, and restored if it was to be, since the host was started.
pub(super) fn was_made(sandbox: &Sandbox) -> Result<bool, RuntimeError> {
    let made = files::read(&boot(sandbox))?;
    Ok(made == Some(files::this_boot()?) && !restoring(sandbox).exists())
}

/// Tells whether all volumes of a machine are served. One of them that is not, its guest waits for for ever.
pub(super) fn is_served(sandbox: &Sandbox) -> Result<bool, RuntimeError> {
    let unserved = virtiofsd::unserved(sandbox)?;
    if let Some(volume) = unserved {
        tracing::warn!(volume, sandbox = sandbox.id, "virtiofsd has ended under a machine");
    }
    Ok(unserved.is_none())
}

/// Restores a machine by `load`, and takes away what is left if that fails.
pub(super) fn restore(
    runtime: &dyn Runtime,
    sandbox: &Sandbox,
    deadline: Deadline,
    load: impl FnOnce() -> Result<(), RuntimeError>,
) -> Result<(), RuntimeError> {
    runtime.kill(sandbox, deadline)?;
    files::write(&restoring(sandbox), "")?;
    match load() {
        Ok(()) => files::remove(&restoring(sandbox)),
        Err(error) => {
            // The error that is told is the first one.
            if let Err(also) = runtime.kill(sandbox, deadline.at_least(CLEAN_UP)) {
                tracing::warn!(error = %also, sandbox = sandbox.id, "a sandbox that could not be restored leaves remains");
            }
            Err(error)
        }
    }
}

/// Ends all processes of a machine, and removes what was made for it: `own` are files of its driver.
pub(super) fn end(sandbox: &Sandbox, own: &[&str], deadline: Deadline) -> Result<(), RuntimeError> {
    processes::end(&Mark::of(sandbox), deadline)?;
    for share in virtiofsd::shares(sandbox).into_values() {
        files::remove(&sandbox.directory.join(share.socket()))?;
        files::remove(&virtiofsd::pid_file(sandbox, share))?;
    }
    let own = own.iter().map(|name| sandbox.directory.join(name));
    own.chain([boot(sandbox), restoring(sandbox)]).try_for_each(|path: PathBuf| files::remove(&path))
}

fn boot(sandbox: &Sandbox) -> PathBuf {
    sandbox.directory.join("boot")
}

fn restoring(sandbox: &Sandbox) -> PathBuf {
    sandbox.directory.join("restoring")
}
