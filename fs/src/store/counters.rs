//! Numbers that are handed out once: trees, branches, volumes, cuts, segments and inodes.
//!
//! # Crash consistency
//! A counter is stored ahead of its use, by one, or for inodes by a lease of many: a crash leaves gaps, never a
//! number that is handed out again.

use parking_lot::Mutex;
use rocksdb::WriteBatch;
use std::sync::atomic::{AtomicU64, Ordering};

use super::db::{Database, META};
use super::error::StoreError;
use super::keys::{Family, Prefix, PrefixOf, VersionedKey, meta};
use super::registry::Registry;
use crate::ids::Ino;

/// What is counted; the number is part of the stored key.
#[derive(Clone, Copy)]
pub(crate) enum Counter {
    Tree = 0,
    Branch = 1,
    Volume = 2,
    Cut = 3,
    Ino = 4,
    Segment = 5,
}

/// Inode numbers that are stored ahead at once.
const INO_LEASE: u64 = 1 << 16;

/// Numbers that are left out where the counter of inodes was lost: some that were handed out may have been removed since.
const LOST_INOS: u64 = 1 << 32;

/// The counters of a store.
pub(crate) struct Counters {
    next_ino: AtomicU64,
    leased: Mutex<u64>,
    one_by_one: Mutex<()>,
}

impl Counters {
    /// Loads them. One that is missing, because it could not be read, begins after all numbers that are in use.
    pub(crate) fn load(db: &Database, registry: &Registry) -> Result<Counters, StoreError> {
        let counters = [Counter::Tree, Counter::Branch, Counter::Volume, Counter::Cut];
        for (counter, used) in counters.into_iter().zip(registry.largest_numbers()) {
            if used > 0 && read(db, counter)? == 0 {
                write(db, counter, used + 1)?;
            }
        }
        if registry.largest_numbers() != [0; 4] && read(db, Counter::Ino)? == 0 {
            let used = largest_ino(db)?;
            if used > 0 {
                write(db, Counter::Ino, used + LOST_INOS)?;
            }
        }
        let next = read(db, Counter::Ino)?.max(Ino::FIRST_ALLOCATED.0);
        Ok(Counters {
            next_ino: AtomicU64::new(next),
            leased: Mutex::new(next),
            one_by_one: Mutex::default(),
        })
    }

    /// Returns a number that was never returned before, from 1 on.
    pub(crate) fn next(&self, db: &Database, counter: Counter) -> Result<u64, StoreError> {
        let _one_by_one = self.one_by_one.lock();
        let next = read(db, counter)?.max(1);
        write(db, counter, next + 1)?;
        Ok(next)
    }

    /// Returns a segment number that was never returned before and is at least `at_least`.
    pub(crate) fn next_segment(&self, db: &Database, at_least: u32) -> Result<u32, StoreError> {
        let _one_by_one = self.one_by_one.lock();
        let next = read(db, Counter::Segment)?.max(u64::from(at_least));
        write(db, Counter::Segment, next + 1)?;
        u32::try_from(next).map_err(|_| StoreError::Corrupt { what: "counter of segments".into() })
    }

    /// Returns an inode number that was never returned before.
    pub(crate) fn next_ino(&self, db: &Database) -> Result<Ino, StoreError> {
        let ino = self.next_ino.fetch_add(1, Ordering::SeqCst);
        let mut leased = self.leased.lock();
        if ino >= *leased {
            let until = ino + INO_LEASE;
            write(db, Counter::Ino, until)?;
            *leased = until;
        }
        Ok(Ino(ino))
    }

    /// Returns the number that will be handed out next, or a smaller one.
    pub(crate) fn peek_ino(&self) -> Ino {
        Ino(self.next_ino.load(Ordering::SeqCst))
    }
}

/// Returns the largest inode number that the store has handed out and of which there is a record.
fn largest_ino(db: &Database) -> Result<u64, StoreError> {
    let mut largest = 0;
    let mut iter = db.walker(Family::Inode, None);
    iter.seek_to_last();
    // From tree to tree, the last first: numbers of lowers are larger than all that were handed out.
    while let Some(tree) =
        iter.key().and_then(|key| VersionedKey::parse(Family::Inode, key)).map(|key| key.tree())
    {
        iter.seek_for_prev(Prefix::inode(tree, Ino(1 << 48)).as_bytes());
        let found = iter.key().and_then(|key| VersionedKey::parse(Family::Inode, key));
        if let Some(found) = found.filter(|found| found.tree() == tree)
            && let Some(PrefixOf::Inode { ino }) = found.prefix.parse()
        {
            largest = largest.max(ino.0);
        }
        iter.seek_for_prev(Prefix::inode(tree, Ino(0)).as_bytes());
    }
    iter.status()?;
    Ok(largest)
}

fn read(db: &Database, counter: Counter) -> Result<u64, StoreError> {
    match db.get_meta(&meta::counter(counter as u8))? {
        None => Ok(0),
        Some(bytes) => bytes
            .try_into()
            .map(u64::from_le_bytes)
            .map_err(|_| StoreError::Corrupt { what: format!("counter {}", counter as u8) }),
    }
}

fn write(db: &Database, counter: Counter, next: u64) -> Result<(), StoreError> {
    let mut batch = WriteBatch::default();
    batch.put_cf(db.family(META), meta::counter(counter as u8), next.to_le_bytes());
    db.write(batch)
}
