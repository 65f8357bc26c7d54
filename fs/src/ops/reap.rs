//! Removing inodes that have no name and that nobody refers to any more.
//!
//! # Crash consistency
//! The mark of an orphan goes with the last of its records. Opening a volume removes the orphans that a mount
//! left which could not.

use super::{Tree, VolumeFs};
use crate::error::FsError;
use crate::ids::Ino;
use crate::store::record::{Group, Inode, PageRun, Usage, Xattr};
use crate::store::{Beneath, Head, META, Prefix, StoreError, Txn, Versioned, meta};

/// Groups that are removed in one transaction.
const BATCH: usize = 1024;

impl VolumeFs {
    /// Removes what died since the last call.
    pub(super) fn reap_dead(&self) {
        loop {
            let Some((tree, ino)) = self.nodes.dead.lock().pop() else { return };
            if let Err(error) = self.reap(&tree, ino) {
                // Its mark stays: the next mount tries again.
                tracing::warn!(%error, %ino, volume = %self.volume, "an unlinked inode could not be removed");
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
        for ino in orphans {
            if self.nodes.find(tree, ino).is_none() {
                self.reap(tree, ino)?;
            }
        }
        Ok(())
    }

    fn reap(&self, tree: &Tree, ino: Ino) -> Result<(), FsError> {
        let Some(head) = &tree.head else { return Ok(()) };
        let view = &tree.merged.view;
        let Some(Versioned { record: Some(inode), .. }) = view.inode(&self.store.db, ino)? else {
            let mut txn = Txn::begin(&self.store, head);
            txn.delete_orphan(ino);
            txn.commit()?;
            return Ok(());
        };
        if inode.nlink > 0 {
            // A fork's name for what died elsewhere.
            return Ok(());
        }
        let beneath = if head.is_new(ino) { Beneath::Nothing } else { Beneath::Unknown };
        while self.reap_groups(head, tree, ino, beneath)? == BATCH {}
        let mut names = Vec::new();
        if inode.has_xattrs {
            view.xattrs(&self.store.db, ino, |name, _| {
                names.push(name.to_vec());
                Ok(true)
            })?;
        }
        let mut txn = Txn::begin(&self.store, head);
        for name in names {
            txn.erase(&Prefix::xattr(head.tree, ino, &name), &Xattr::Removed, beneath)?;
        }
        txn.erase(&Prefix::inode(head.tree, ino), &None::<Inode>, beneath)?;
        txn.delete_orphan(ino);
        txn.charge(Usage { bytes: -i64::try_from(inode.stored).unwrap_or(0), inodes: -1 })?;
        txn.commit()?;
        Ok(())
    }

    /// Removes some of a file's groups. Returns how many.
    fn reap_groups(&self, head: &Head, tree: &Tree, ino: Ino, beneath: Beneath) -> Result<usize, FsError> {
        let mut groups = Vec::new();
        tree.merged.view.groups(&self.store.db, ino, 0, |index, versioned| {
            if versioned.record != Group::Removed {
                groups.push((index, versioned.record));
            }
            Ok(groups.len() < BATCH)
        })?;
        if groups.is_empty() {
            return Ok(0);
        }
        let mut txn = Txn::begin(&self.store, head);
        for (index, group) in &groups {
            for page in group.refs().filter(|page| page.epoch > head.retained()) {
                txn.free(PageRun { segment: page.segment, page: page.page, count: 1 });
            }
            txn.erase(&Prefix::extent(head.tree, ino, *index), &Group::Removed, beneath)?;
        }
        txn.commit()?;
        Ok(groups.len())
    }
}
