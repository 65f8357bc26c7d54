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
use super::keys::meta;
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

/// The counters of a store.
pub(crate) struct Counters {
    next_ino: AtomicU64,
    leased: Mutex<u64>,
    one_by_one: Mutex<()>,
}

impl Counters {
    pub(crate) fn load(db: &Database) -> Result<Counters, StoreError> {
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
