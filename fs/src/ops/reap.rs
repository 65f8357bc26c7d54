//! Removing inodes that have no name and that nobody refers to any more.
//!
//! # Crash consistency
//! The mark of an orphan goes with the last of its records. Opening a volume removes the orphans that a mount
//! left which could not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Tree, VolumeFs};
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::Ino;
use crate::request::Answer;
use crate::store::record::{GROUP_SIZE, Group, Inode, Usage, Xattr};
use crate::store::{Beneath, Head, META, Prefix, StoreError, Txn, meta};

/// Groups that are removed in one transaction.
const BATCH: usize = 1024;
/// Inodes that are removed in one transaction.
const TOGETHER: usize = 64;
/// Size from which on a file's groups are removed in transactions of their own: one that is smaller has no more than `BATCH`.
const LARGE: u64 = (BATCH * GROUP_SIZE) as u64;
/// How often, and how long each time, an operation waits for room that was just given back.
const ROOM_TRIES: u32 = 20;
const SETTLE_TRIES: u32 = 5;
const ROOM_WAIT: Duration = Duration::from_millis(1);
/// Inodes that may wait to be removed: the background gets to them within a second.
pub(super) const PATIENCE: usize = TOGETHER - 1;

impl VolumeFs {
    /// Removes what died since, if more than `patience` inodes wait.
    pub(super) fn reap_dead(&self, patience: usize) {
        let dead = {
            let mut dead = self.nodes.dead.lock();
            if dead.len() <= patience {
                return;
            }
            std::mem::take(&mut *dead)
        };
        for chunk in dead.chunk_by(|a, b| Arc::ptr_eq(&a.0, &b.0)) {
            let Some((tree, _)) = chunk.first() else { continue };
            let inos: Vec<Ino> = chunk.iter().map(|&(_, ino)| ino).collect();
            for inos in inos.chunks(TOGETHER) {
                match self.reap(tree, inos) {
                    // They went with the head that a rollback took away.
                    Ok(()) | Err(FsError::Retired) => {}
                    // Their marks stay: the next mount tries again.
                    Err(error) => {
                        tracing::warn!(%error, ?inos, volume = %self.volume, "unlinked inodes could not be removed");
                    }
                }
            }
        }
    }

    /// Runs an operation that a quota may refuse. What was removed just before counts until the kernel forgot it: where
    /// that is all that is in the way, it is waited for, shortly.
    pub(super) fn with_room<T>(&self, operation: impl Fn() -> Result<T, FsError>) -> Result<T, FsError> {
        let mut result = operation();
        for _ in 0..ROOM_TRIES {
            if !matches!(result, Err(FsError::QuotaExceeded { .. }))
                || self.unlinked.load(Ordering::SeqCst) <= 0
            {
                return result;
            }
            if self.nodes.dead.lock().is_empty() {
                std::thread::sleep(ROOM_WAIT);
            }
            self.reap_dead(0);
            result = operation();
        }
        result
    }

    /// Removes what was unlinked just before, as far as the kernel forgets it within a few milliseconds: what is counted
    /// next should not count it.
    pub(super) fn settle(&self) {
        for _ in 0..SETTLE_TRIES {
            self.reap_dead(0);
            if self.unlinked.load(Ordering::SeqCst) <= 0 {
                return;
            }
            std::thread::sleep(ROOM_WAIT);
        }
    }

    /// Counts an inode that lost its last name.
    pub(super) fn count_unlinked(&self, inode: &Inode) {
        if inode.nlink == 0 {
            self.unlinked.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Removes all orphans of the head: the transport is gone, and its references with it.
    pub(super) fn reap_all(&mut self) {
        self.nodes.clear();
        self.nodes.dead.get_mut().clear();
        let tree = self.root.get_mut().clone();
        let Some(head) = &tree.head else { return };
        // Whoever opens the head right now does the same, and must not do it beside us.
        let Some(_opening) = head.opening.try_lock() else { return };
        if head.is_live() {
            return;
        }
        match self.reap_orphans(&tree) {
            Ok(()) | Err(FsError::Retired) => {}
            // Their marks stay: the next mount tries again.
            Err(error) => {
                tracing::warn!(%error, volume = %self.volume, "unlinked inodes could not be removed")
            }
        }
    }

    /// Removes the orphans of the head that nobody refers to.
    pub(super) fn reap_orphans(&self, tree: &Tree) -> Result<(), FsError> {
        let Some(head) = &tree.head else { return Ok(()) };
        let mut orphans = Vec::new();
        self.store.db.scan(META, &meta::orphans_of(head.branch), &[], |key, _| {
            match meta::tail_u32_u64(key) {
                Some((_, ino)) => orphans.push(Ino(ino)),
                None => return Err(StoreError::Corrupt { what: "orphan record".into() }),
            }
            Ok(true)
        })?;
        orphans.retain(|&ino| self.nodes.find(tree, ino).is_none());
        for inos in orphans.chunks(TOGETHER) {
            self.reap(tree, inos)?;
        }
        Ok(())
    }

    /// Removes inodes that have no name, in one transaction but for large files.
    fn reap(&self, tree: &Tree, inos: &[Ino]) -> Result<(), FsError> {
        let Some(head) = &tree.head else { return Ok(()) };
        let view = &tree.merged.view;
        let mut found = Vec::new();
        for &ino in inos {
            let inode = view.inode(&self.store.db, ino)?.and_then(|versioned| versioned.record);
            let large = inode.as_ref().is_some_and(|inode| inode.nlink == 0 && inode.size > LARGE);
            while large && self.reap_some_groups(head, tree, ino)? == BATCH {}
            found.push((ino, inode));
        }
        let mut txn = Txn::begin_housekeeping(&self.store, head)?;
        for (ino, inode) in found {
            // A fork's name for what died elsewhere keeps an inode alive.
            if let Some(inode) = inode.filter(|inode| inode.nlink == 0) {
                self.stage_reap(&mut txn, tree, ino, &inode)?;
            }
            txn.delete_orphan(ino);
        }
        txn.commit(Answer::Done)?;
        self.unlinked.fetch_sub(inos.len() as i64, Ordering::SeqCst);
        Ok(())
    }

    fn stage_reap(&self, txn: &mut Txn<'_>, tree: &Tree, ino: Ino, inode: &Inode) -> Result<(), FsError> {
        let head = txn.head();
        let view = &tree.merged.view;
        let beneath = if head.is_new(ino) { Beneath::Nothing } else { Beneath::Unknown };
        if inode.kind == FileKind::Regular {
            self.stage_reap_groups(txn, tree, ino, beneath)?;
        }
        if inode.has_xattrs {
            let mut names = Vec::new();
            view.xattrs(&self.store.db, ino, |name, _| {
                names.push(name.to_vec());
                Ok(true)
            })?;
            for name in names {
                txn.erase(&Prefix::xattr(head.tree, ino, &name), &Xattr::Removed, beneath)?;
            }
        }
        txn.erase(&Prefix::inode(head.tree, ino), &None::<Inode>, beneath)?;
        txn.charge(Usage { bytes: -i64::try_from(inode.stored).unwrap_or(0), inodes: -1 })
    }

    /// Removes some groups of a large file. Returns how many.
    fn reap_some_groups(&self, head: &Head, tree: &Tree, ino: Ino) -> Result<usize, FsError> {
        let mut txn = Txn::begin_housekeeping(&self.store, head)?;
        let beneath = if head.is_new(ino) { Beneath::Nothing } else { Beneath::Unknown };
        let count = self.stage_reap_groups(&mut txn, tree, ino, beneath)?;
        txn.commit(Answer::Done)?;
        Ok(count)
    }

    fn stage_reap_groups(
        &self,
        txn: &mut Txn<'_>,
        tree: &Tree,
        ino: Ino,
        beneath: Beneath,
    ) -> Result<usize, FsError> {
        let mut groups = Vec::new();
        tree.merged.view.groups(&self.store.db, ino, 0, |index, versioned| {
            if versioned.record != Group::Removed {
                groups.push((index, versioned.record));
            }
            Ok(groups.len() < BATCH)
        })?;
        let head = txn.head();
        for (index, group) in &groups {
            for page in group.refs() {
                txn.release(ino, *index, page);
            }
            txn.erase(&Prefix::extent(head.tree, ino, *index), &Group::Removed, beneath)?;
        }
        Ok(groups.len())
    }
}
