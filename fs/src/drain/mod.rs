//! The drain: bringing data that only the page cache has into the store, before a cut.
//!
//! # Overview
//! A `write` that returned is in the store. A store into a shared mapping is not: the kernel writes
//! the page back when it likes, and `syncfs` does not wait for that on a FUSE mount. With
//! zero-message opens the store does not even hear of the file being opened. So before a cut the
//! inodes that can have such pages are looked for in `/proc`, and each is synced:
//!
//! ```text
//!  scan.rs    /proc/<pid>/maps ── maps.rs, or query.rs where the kernel answers questions
//!      │ shared mappings of a file opened for writing, on one of the mounts
//!      ▼
//!  helper.rs  a process of its own opens /proc/<pid>/map_files/<range> and calls fsync
//! ```
//!
//! With a writeback cache ([`CacheMode::Writeback`]) a `write` may be in the page cache only as
//! well, and the files that are open for writing are looked for too. A file that is not open any
//! more was written back when it was closed, a mapping when it was removed.
//!
//! # Invariants
//! - The daemon never opens a file of its own mounts: killed in that moment it would wait for
//!   itself for ever. The helper does; killed, it dies, and if the daemon dies, its calls fail.
//! - If nothing can be dirty, no process is started.
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

pub use helper::{HELPER_ARGUMENT, helper_main};
pub use scan::{MaybeDirty, Scan, find_maybe_dirty};

use crate::fuse::{CacheMode, DeviceId};

/// Which processes may have pages of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that this process can see.
    All,
    /// Those of one cgroup (version 2) and of its descendants, given by its directory.
    Cgroup(PathBuf),
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
    /// How many inodes were synced.
    pub synced: usize,
    /// How long it took to find them.
    pub scan: Duration,
    /// How long it took to sync them.
    pub sync: Duration,
}

/// Why a drain did not complete. Nothing is lost, but a cut now might miss data.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The processes cannot be listed.
    #[error("list processes in {}", path.display())]
    List {
        /// `/proc`, or the cgroup.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The helper could not be started or talked to.
    #[error("{step} the helper that syncs mapped files")]
    Helper {
        /// What was being done.
        step: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Some files could not be synced.
    #[error("sync of mapped files: {failures}")]
    Sync {
        /// Which and why, on one line.
        failures: String,
    },
    /// Syncing took too long.
    #[error("mapped files were not synced within {} ms", deadline.as_millis())]
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

    /// Syncs every inode of `mounts` that processes in `scope` may have dirty pages of.
    pub fn run(&self, mounts: &[DrainedMount], scope: &Scope) -> Result<DrainReport, DrainError> {
        let started = Instant::now();
        let found = find_maybe_dirty(mounts, scope, started + self.deadline)?;
        let scan = started.elapsed();
        if found.exiting > 0 {
            return Err(DrainError::TimedOut { deadline: self.deadline });
        }
        if !found.maybe_dirty.is_empty() {
            helper::sync_in_helper(self, started, &found.maybe_dirty)?;
        }
        Ok(DrainReport {
            processes: found.processes,
            unreadable: found.unreadable,
            synced: found.maybe_dirty.len(),
            scan,
            sync: started.elapsed() - scan,
        })
    }
}
