//! All records as they were at one moment, between two batches.
//!
//! # Invariants
//! - Every operation is one batch, so what is seen here is what a crash at that moment would have left, however many
//!   volumes are being written.

use rocksdb::{DBRawIterator, ReadOptions, Snapshot};

use super::db::{Database, successor};
use super::error::StoreError;
use super::keys::Family;

/// The records of a store at one moment.
pub(crate) struct Frozen<'a> {
    db: &'a Database,
    snapshot: Snapshot<'a>,
}

impl<'a> Frozen<'a> {
    /// Takes the present moment.
    pub(crate) fn new(db: &'a Database) -> Frozen<'a> {
        Frozen { db, snapshot: db.snapshot() }
    }

    /// Calls `visit` with each key of `family` that begins with `prefix` and is at or after `start`, in order, until
    /// it returns `false`.
    pub(crate) fn scan(
        &self,
        family: &str,
        prefix: &[u8],
        start: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        // What is read once must not push out what volumes in use need.
        options.fill_cache(false);
        options.set_readahead_size(1 << 20);
        if let Some(end) = successor(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let mut iter = self.snapshot.raw_iterator_cf_opt(self.db.family(family), options);
        iter.seek(if start > prefix { start } else { prefix });
        while let Some((key, value)) = iter.item() {
            if !visit(key, value)? {
                return Ok(());
            }
            iter.next();
        }
        Ok(iter.status()?)
    }

    /// Returns an iterator for seeks within one prefix at a time.
    pub(crate) fn seeker(&self, family: Family) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        self.snapshot.raw_iterator_cf_opt(self.db.family(family.name()), options)
    }

    /// Tells whether a key exists.
    pub(crate) fn contains(&self, family: &str, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.snapshot.get_pinned_cf(self.db.family(family), key)?.is_some())
    }
}
