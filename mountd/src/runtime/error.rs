//! What may go wrong with a sandbox.

use std::io;
use std::path::PathBuf;

/// A call to a runtime failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// A program that the runtime needs is not installed.
    #[error("{program} is not installed: {remedy}")]
    Missing {
        /// The program.
        program: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The runtime cannot do this, here or at all.
    #[error("{runtime} cannot {what}: {why}")]
    Unsupported {
        /// Its name.
        runtime: &'static str,
        /// What was asked for.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// A sandbox is described in a way that does not work, or that would let writes bypass a volume.
    #[error("{setting}: {why}")]
    Refused {
        /// The setting, as the template writes it.
        setting: String,
        /// What is wrong with it.
        why: String,
    },
    /// The runtime ran and said no.
    #[error("{program} {action}: {detail}")]
    Failed {
        /// The program, or the monitor's address.
        program: String,
        /// What it was asked to do.
        action: String,
        /// Its own words, shortened to the last lines.
        detail: String,
    },
    /// The runtime did not answer in time.
    #[error("{program} {action} did not end in time")]
    TimedOut {
        /// The program, or the monitor's address.
        program: String,
        /// What it was asked to do.
        action: String,
    },
    /// A container ended before its sandbox was ready, or while it was needed.
    #[error("container {container} has ended{}", status.map_or(String::new(), |code| format!(" with status {code}")))]
    Exited {
        /// Its name in the template.
        container: String,
        /// Its exit status, if known.
        status: Option<i32>,
    },
    /// A file of the sandbox could not be written or read.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it did not work.
        source: io::Error,
    },
}
