//! What this daemon has done since it started.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use durdir_fs::check::Progress;

/// Counters of the node. Relaxed: they are read by people.
#[derive(Default)]
pub(crate) struct Tally {
    cuts: AtomicU64,
    held_nanos: AtomicU64,
    drained_inodes: AtomicU64,
    replayed: AtomicU64,
    requests: AtomicU64,
    failed_requests: AtomicU64,
    verifying: Progress,
}

impl Tally {
    /// Counts one cut.
    pub(crate) fn count_cut(&self, held: Duration, drained: u64) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
        let held = u64::try_from(held.as_nanos()).unwrap_or(u64::MAX);
        self.held_nanos.fetch_add(held, Ordering::Relaxed);
        self.drained_inodes.fetch_add(drained, Ordering::Relaxed);
    }

    /// Counts a call of the API.
    pub(crate) fn count_request(&self, failed: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.failed_requests.fetch_add(u64::from(failed), Ordering::Relaxed);
    }

    /// Returns how many calls were answered.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns how many of them failed or were refused.
    pub(crate) fn failed_requests(&self) -> u64 {
        self.failed_requests.load(Ordering::Relaxed)
    }

    /// Counts a request that was answered from the record.
    pub(crate) fn count_replay(&self) {
        self.replayed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many requests were answered from the record.
    pub(crate) fn replayed(&self) -> u64 {
        self.replayed.load(Ordering::Relaxed)
    }

    /// Returns where checks of what is stored tell how far they are.
    pub(crate) fn verifying(&self) -> &Progress {
        &self.verifying
    }

    /// Returns cuts taken.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

    /// Returns how long all cuts together held operations, in microseconds.
    pub(crate) fn held_us(&self) -> u64 {
        self.held_nanos.load(Ordering::Relaxed).div_ceil(1_000)
    }

    /// Returns how many files were written out before cuts.
    pub(crate) fn drained_inodes(&self) -> u64 {
        self.drained_inodes.load(Ordering::Relaxed)
    }
}
