//! Which pages a check reads, and who is told how far it is.

use std::sync::atomic::{AtomicU64, Ordering};

use siphasher::sip::SipHasher13;

use crate::store::{Prefix, Store};

/// Of a million groups, how many are read.
const ALL: u32 = 1_000_000;

/// A choice of the groups of pages whose bytes are read. Groups are chosen by chance, each by itself: the time that it takes
/// follows the share, and whoever asks again with another seed reads others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    per_million: u32,
    seed: u64,
}

impl Sample {
    /// Every group.
    pub const EVERYTHING: Sample = Sample { per_million: ALL, seed: 0 };

    /// About this many of a million groups; more than a million are all.
    pub fn of(per_million: u32, seed: u64) -> Sample {
        Sample { per_million: per_million.min(ALL), seed }
    }

    /// Tells whether a group is read.
    fn takes(self, group: &Prefix) -> bool {
        // Of the key, so that all versions of a group are taken together: they share pages.
        let hash = SipHasher13::new_with_keys(self.seed, 0).hash(group.as_bytes());
        self.per_million == ALL || hash % u64::from(ALL) < u64::from(self.per_million)
    }

    /// Returns about how many of so many pages are read.
    fn share_of(self, pages: u64) -> u64 {
        let share = u128::from(pages) * u128::from(self.per_million) / u128::from(ALL);
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

/// How far checks are, for whoever waits for them. Several may count here at the same time.
#[derive(Debug, Default)]
pub struct Progress {
    read: AtomicU64,
    left: AtomicU64,
}

impl Progress {
    /// Returns how many pages were read and compared with their checksums.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Returns about how many pages are still to be read by checks that run.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }
}

/// The reading of one check.
pub(super) struct Reading<'a> {
    sample: Sample,
    progress: &'a Progress,
    /// What this check has added to [`Progress::left`] and not taken away yet.
    left: u64,
    pages: u64,
}

impl<'a> Reading<'a> {
    /// Begins to read a sample of what a store holds.
    pub(super) fn begin(store: &Store, sample: Sample, progress: &'a Progress) -> Reading<'a> {
        let handed_out = store.segments.list().into_iter().map(|(_, end)| u64::from(end)).sum();
        let left = sample.share_of(handed_out);
        progress.left.fetch_add(left, Ordering::Relaxed);
        Reading { sample, progress, left, pages: 0 }
    }

    /// Tells whether the pages of a group are read.
    pub(super) fn takes(&self, group: &Prefix) -> bool {
        self.sample.takes(group)
    }

    /// Counts pages that were read.
    pub(super) fn count(&mut self, pages: u64) {
        self.pages += pages;
        self.progress.read.fetch_add(pages, Ordering::Relaxed);
        // The number was a guess: what was punched out is not read.
        let done = pages.min(self.left);
        self.left -= done;
        self.progress.left.fetch_sub(done, Ordering::Relaxed);
    }

    /// Returns how many pages were read.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.progress.left.fetch_sub(self.left, Ordering::Relaxed);
    }
}
