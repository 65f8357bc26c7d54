//! Giving pages back to the host, in the background.
//!
//! # Crash consistency
//! Pages are punched out only once the batch that let go of them is durable, and the data that replaced them: else the host could lose that batch with
//! its power, and older records would point at holes. Which pages those are is in the batch itself, so
//! that nothing is forgotten when the process dies in between. Punching twice is harmless.
//!
//! Where the version that refers to a page stays, of an epoch that nobody sees, it stands in if the host loses the one that replaced it. In
//! another boot its pages are not punched out any more: a sweep removes them with the version.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rocksdb::WriteBatch;

use super::db::{Database, META};
use super::error::StoreError;
use super::keys::meta;
use super::record::{FreeList, PAGE_SIZE, PageRun, Record};
use super::segment::Segments;
use crate::error::FsError;

/// Pages that wait to be punched out.
pub(crate) struct Freer {
    next: AtomicU64,
    waiting: Mutex<Vec<(u64, Vec<PageRun>)>>,
}

impl Freer {
    /// Loads what an earlier process left. Pages of a list that cannot be read stay behind until `fsck --repair`.
    pub(crate) fn load(db: &Database, boot: u128) -> Result<Freer, StoreError> {
        let mut waiting = Vec::new();
        let mut next = 1;
        db.scan(META, &[meta::FREE], &[], |key, value| {
            if let (Some(number), Some(list)) = (meta::tail_u64(key), FreeList::decode(value)) {
                next = next.max(number + 1);
                // An empty one is forgotten with the others.
                let may_go = list.boot == 0 || list.boot == boot;
                waiting.push((number, if may_go { list.runs } else { Vec::new() }));
            }
            Ok(true)
        })?;
        Ok(Freer { next: AtomicU64::new(next), waiting: Mutex::new(waiting) })
    }

    /// Returns the number under which a batch stores its list.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// Takes over pages whose list is stored under `number`.
    pub(crate) fn push(&self, number: u64, runs: Vec<PageRun>) {
        self.waiting.lock().push((number, runs));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// Punches out all that waits. Returns how many bytes went back.
    ///
    /// `sync` makes durable what was written instead of the pages, data and records.
    pub(crate) fn run(
        &self,
        db: &Database,
        segments: &Segments,
        sync: impl FnOnce() -> Result<(), FsError>,
    ) -> Result<u64, FsError> {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        if waiting.is_empty() {
            return Ok(0);
        }
        let done = sync().and_then(|()| Ok(self.punch(db, segments, &waiting)?));
        if done.is_err() {
            self.waiting.lock().extend(waiting);
        }
        done
    }

    fn punch(
        &self,
        db: &Database,
        segments: &Segments,
        waiting: &[(u64, Vec<PageRun>)],
    ) -> Result<u64, StoreError> {
        let mut bytes = 0;
        let mut batch = WriteBatch::default();
        for (number, runs) in waiting {
            for &run in runs {
                segments.punch(run)?;
                bytes += u64::from(run.count) * PAGE_SIZE as u64;
            }
            batch.delete_cf(db.family(META), meta::free(*number));
        }
        db.write(batch)?;
        Ok(bytes)
    }
}
