//! Mending what can be mended without guessing.
//!
//! # Concurrency
//! A volume may be in use: what is about an inode is looked at again while nobody can change it, and usage is changed by the
//! difference, as an operation would change it.

use rocksdb::WriteBatch;

use crate::error::FsError;
use crate::ids::{BranchId, Epoch, Ino};
use crate::request::Answer;
use crate::store::record::{PageRun, Record, Snapshot, Usage};
use crate::store::{META, Store, StoreError, TOUCHED, Txn, meta};

/// Lists a record as touched by its epoch.
pub(super) fn list_as_touched(store: &Store, key: &[u8]) -> Result<(), StoreError> {
    let mut batch = WriteBatch::default();
    batch.put_cf(store.db.family(TOUCHED), key, []);
    store.db.write(batch)
}

/// Has the next sweep look at epochs again that count as settled.
pub(super) fn unsettle(store: &Store, branch: BranchId, after: Epoch) -> Result<(), StoreError> {
    let mut batch = WriteBatch::default();
    batch.delete_cf(store.db.family(META), meta::settled(branch, after));
    store.db.write(batch)
}

/// Makes a tie known to its other end. `false` if it went meanwhile.
pub(super) fn tie_back(store: &Store, tie: &[u8], back: &[u8]) -> Result<bool, StoreError> {
    if store.db.get_meta(tie)?.is_none() {
        return Ok(false);
    }
    let mut batch = WriteBatch::default();
    batch.put_cf(store.db.family(META), back, []);
    store.db.write(batch)?;
    Ok(true)
}

/// Adds to what a head counts. `false` if a quota forbids.
pub(super) fn usage(store: &Store, branch: BranchId, delta: Usage) -> Result<bool, FsError> {
    let head = store.head(branch)?;
    let mut txn = Txn::begin_housekeeping(store, &head)?;
    match txn.charge(delta) {
        Ok(()) => {}
        Err(FsError::QuotaExceeded { .. } | FsError::NoSpace) => return Ok(false),
        Err(error) => return Err(error),
    }
    txn.commit(Answer::Done)?;
    Ok(true)
}

/// Sets what a snapshot counts. `false` if it was removed meanwhile.
pub(super) fn snapshot_usage(store: &Store, key: (BranchId, Epoch), usage: Usage) -> Result<bool, FsError> {
    let mut registry = store.registry.write();
    let Some(snapshot) = registry.snapshots.get_mut(&key) else { return Ok(false) };
    let mended = Snapshot { usage, ..snapshot.clone() };
    let mut batch = WriteBatch::default();
    batch.put_cf(store.db.family(META), meta::snapshot(key.0, key.1), mended.encode());
    store.db.write(batch)?;
    *snapshot = mended;
    Ok(true)
}

/// Marks an inode of a head as an orphan exactly if it is one.
pub(super) fn orphan_mark(store: &Store, branch: BranchId, ino: Ino) -> Result<bool, FsError> {
    let head = store.head(branch)?;
    // Nobody mounts the volume in between.
    let _opening = head.opening.lock();
    let mend = || -> Result<bool, FsError> {
        let inode = match store.head_view(&head)?.inode(&store.db, ino) {
            // Whether it has links cannot be told.
            Err(error) if error.is_corruption() => return Ok(false),
            found => found?.and_then(|found| found.record),
        };
        let mut txn = Txn::begin_housekeeping(store, &head)?;
        match inode {
            Some(inode) if inode.nlink == 0 => txn.put_orphan(ino),
            Some(_) | None => txn.delete_orphan(ino),
        }
        txn.commit(Answer::Done).map(|_| true)
    };
    let mut done = Ok(false);
    let mut work = || done = mend();
    match head.live() {
        Some(live) => live.exclusively(ino, &mut work),
        None => work(),
    }
    done
}

/// Gives pages back to the host that nothing refers to.
pub(super) fn punch(store: &Store, runs: &[PageRun]) -> Result<(), StoreError> {
    // What let go of them may be in the log only.
    store.db.sync_log()?;
    runs.iter().try_for_each(|&run| store.segments.punch(run))
}
