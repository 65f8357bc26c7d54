//! fsck: whether what is stored keeps the invariants of `docs/on-disk.md`.
//!
//! One [`Issue`] kind per invariant. [`Repair::Yes`] mends what can be mended without guessing; the rest is reported.
//!
//! # Overview
//! All records are read as they were at one moment, between two batches ([`Frozen`]): volumes may be written meanwhile.
//!
//! 1. [`history`]: volumes, branches and snapshots, and with them which trees can be seen.
//! 2. [`records`]: every record by itself, in one pass.
//! 3. [`trees`]: every tree that can be seen, [`namespace`] and [`usage`]. The first of a family is read as a whole, and each other
//!    one is reached from its neighbour through what was written between the two.
//! 4. [`data`]: every page that anything refers to, and then every page that nothing refers to.
//!
//! [`verify`] leaves out what is about trees as a whole, and the pages that nothing refers to: it reads all records and all pages, or a
//! sample of these, to find out whether the disk still has what was written.
//!
//! # Concurrency
//! Segments cannot be frozen. What looks wrong with a page is looked up again in the live records before it is an issue: a page
//! that was rewritten or given back since is not.
//!
//! # Crash consistency
//! Repairs are ordinary transactions of a head, or single batches that make only what was broken right: doing a
//! part of them is safe, and so is doing them twice.

mod data;
mod findings;
mod history;
mod issue;
mod meta;
mod namespace;
mod place;
mod reading;
mod records;
mod repair;
mod trees;
mod usage;

#[cfg(test)]
mod tests;

pub use issue::{Issue, Place};
pub use reading::{Progress, Sample};

use crate::error::FsError;
use crate::store::{Frozen, Store};
use data::Segments;
use findings::Findings;
use history::History;
use reading::Reading;

/// Whether issues are mended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// They are only reported.
    No,
    /// Those that can be mended without guessing are.
    Yes,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Everything that is wrong, or was until it was mended.
    pub issues: Vec<Issue>,
    /// How many further issues there are, of kinds of which there are more than a thousand.
    pub omitted: u64,
    /// How many records were looked at.
    pub records: u64,
    /// How many pages were read and compared with their checksums.
    pub pages: u64,
}

/// What every part of a check needs.
struct Check<'a> {
    store: &'a Store,
    frozen: Frozen<'a>,
    repair: Repair,
    findings: Findings,
}

/// Checks a store. It may be in use.
pub fn check(store: &Store, repair: Repair) -> Result<CheckReport, FsError> {
    // First, so that whatever was written into them is in the records too.
    let quiet = Segments::quiet(store);
    let frozen = Frozen::new(&store.db);
    let mut check = Check { store, frozen, repair, findings: Findings::default() };
    let meta = meta::read(&mut check)?;
    let history = History::check(&mut check, meta);
    let records = records::check(&mut check, &history)?;
    history.check_counters(&mut check, records.last_inode);
    for tree in history.trees() {
        trees::check(&mut check, &history, tree)?;
    }
    let (mut segments, pages) = {
        let progress = Progress::default();
        let mut reading = Reading::begin(store, Sample::EVERYTHING, &progress);
        (data::check(&mut check, &history, &mut reading)?, reading.pages())
    };
    check.findings.report.pages = pages;
    segments.check_free_lists(&mut check, &history);
    if records.extents_readable && history.meta.free_readable {
        segments.check_leaks(&mut check, &quiet)?;
    }
    if repair == Repair::Yes {
        // What it had counted was counted anew.
        store.forget_moved_aside()?;
    }
    Ok(check.findings.report)
}

/// Reads all records, and a sample of the pages that volumes and snapshots show, and reports what is not as it was
/// written. The store may be in use; nothing is mended.
pub fn verify(store: &Store, sample: Sample, progress: &Progress) -> Result<CheckReport, FsError> {
    let mut reading = Reading::begin(store, sample, progress);
    let frozen = Frozen::new(&store.db);
    let mut check = Check { store, frozen, repair: Repair::No, findings: Findings::default() };
    let meta = meta::read(&mut check)?;
    let history = History::check(&mut check, meta);
    records::check(&mut check, &history)?;
    data::check(&mut check, &history, &mut reading)?;
    check.findings.report.pages = reading.pages();
    Ok(check.findings.report)
}
