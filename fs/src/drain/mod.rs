//! The drain: bringing data that only the page cache has into the store, before a cut.
//!
//! # Overview
//! A `write` that returned is in the store. A store into a shared mapping is not: the kernel writes
//! the page back when it likes, and `syncfs` does not wait for that on a FUSE mount. With
//! zero-message opens the store does not even hear of the file being opened. So before a cut the
//! inodes that can have such pages are looked for in `/proc`, and each is written out:
//!
//! ```text
//!  scan.rs    /proc/<pid>/maps ── maps.rs, or query.rs where the kernel answers questions
//!      │ shared mappings of a file opened for writing, on one of the mounts
//!      ▼
//!  helper.rs  a process of its own opens /proc/<pid>/map_files/<range> and closes it, which writes it out
//! ```
//!
//! With a writeback cache ([`CacheMode::Writeback`]) a `write` may be in the page cache only as
//! well, and the files that are open for writing are looked for too. A file that is not open any
//! more was written back when it was closed, a mapping when it was removed.
//!
//! # Invariants
//! - The daemon never opens a file of its own mounts: killed in that moment it would wait for
//!   itself for ever. The helper does; killed, it dies, and if the daemon dies, its calls fail.
//! - If nothing can be dirty, no process is started, unless a helper was started [ahead](Drain::start_helper).
//! - Every page that was dirty when [`Drain::run`] was called has been answered by the store when
//!   it returned `Ok`, with one exception: the pages of a mapping that a thread is just removing.
//!   The kernel does not show it any more, and writes it back before `munmap` returns.
//!
//! # Concurrency
//! Runs while programs go on, outside the gate, and never on a thread that answers requests.

mod helper;
mod maps;
mod open_file;
mod process;
mod query;
mod scan;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use helper::{HELPER_ARGUMENT, Helper, helper_main};
pub use scan::{MaybeDirty, Scan, find_maybe_dirty};

use crate::fuse::{CacheMode, DeviceId};

/// Which processes may have pages of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that this process can see.
    All,
    /// These, where it is known that no others have files of the mounts in their memory: what it costs does not depend on what
    /// else runs on the host, and has mapped.
    Processes(Vec<u32>),
}

/// A mount to be drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainedMount {
    /// The `st_dev` of its files.
    pub device: DeviceId,
    /// Whether writes may be in the page cache as well.
    pub cache: CacheMode,
}

/// Drains mounts.
#[derive(Clone, Debug)]
pub struct Drain {
    /// The program that runs as helper: one that calls [`helper_main`] when its first argument is
    /// [`HELPER_ARGUMENT`].
    pub helper: PathBuf,
    /// How long a drain may take before it fails.
    pub deadline: Duration,
}

/// What a drain did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// How many processes were looked at.
    pub processes: usize,
    /// How many could not be looked at: processes of other users, unless this is root's.
    pub unreadable: usize,
    /// How many inodes were written out.
    pub written: usize,
    /// How long it took to find them.
    pub scan: Duration,
    /// How long it took to write them out.
    pub writing: Duration,
}

/// Why a drain did not complete. Nothing is lost, but a cut now might miss data.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The processes cannot be listed.
    #[error("list processes in /proc")]
    List {
        /// What the system said.
        source: std::io::Error,
    },
    /// The helper could not be started or talked to.
    #[error("{step} the helper that writes mapped files out")]
    Helper {
        /// What was being done.
        step: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Some files could not be written out.
    #[error("write mapped files out: {failures}")]
    Failed {
        /// Which and why, on one line.
        failures: String,
    },
    /// It took too long.
    #[error("mapped files were not written out within {} ms", deadline.as_millis())]
    TimedOut {
        /// The limit that was exceeded.
        deadline: Duration,
    },
}

impl Drain {
    /// Returns a drain whose helper is this very program, also after its file was replaced.
    pub fn by_this_program(deadline: Duration) -> Self {
        Self { helper: PathBuf::from("/proc/self/exe"), deadline }
    }

    /// Starts a helper that waits for its work: for those who are about to hold programs still, and want to do so for as short as
    /// can be. Starting a process takes longer than most drains.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_helper(&self) -> Result<Helper, DrainError> {
        Helper::start(&self.helper)
    }

    /// Writes every inode of `mounts` out that processes in `scope` may have dirty pages of, by a helper that was started ahead, if
    /// there is one.
    pub fn run(
        &self,
        mounts: &[DrainedMount],
        scope: &Scope,
        helper: Option<Helper>,
    ) -> Result<DrainReport, DrainError> {
        let started = Instant::now();
        let found = find_maybe_dirty(mounts, scope, started + self.deadline)?;
        let scan = started.elapsed();
        if found.exiting > 0 {
            return Err(DrainError::TimedOut { deadline: self.deadline });
        }
        if !found.maybe_dirty.is_empty() {
            let helper = helper.map_or_else(|| self.start_helper(), Ok)?;
            helper.write_out(self.deadline, started, &found.maybe_dirty)?;
        }
        Ok(DrainReport {
            processes: found.processes,
            unreadable: found.unreadable,
            written: found.maybe_dirty.len(),
            scan,
            writing: started.elapsed() - scan,
        })
    }
}
