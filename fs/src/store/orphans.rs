//! Inodes that had no name any more but were in use when an epoch ended: whoever descends from there has them too, and nobody
//! to use them.
//!
//! # Invariants
//! - An inode that the end of an epoch of a branch shows without links has a mark there: that of an orphan, or, once it was removed from
//!   the branch in a later epoch, that of one that *departed*.

use super::head::Head;
use super::view::View;
use super::{META, Store, StoreError, meta};
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, Ino};

impl Store {
    /// Lists the inodes that were orphans where the first branch of a view began, and that it still shows.
    pub(crate) fn inherited_orphans(&self, view: &View) -> Result<Vec<Ino>, FsError> {
        self.orphans_of(view, 1)
    }

    /// Lists the inodes without a name that a view shows.
    pub(crate) fn orphans(&self, view: &View) -> Result<Vec<Ino>, FsError> {
        self.orphans_of(view, 0)
    }

    fn orphans_of(&self, view: &View, skip: usize) -> Result<Vec<Ino>, FsError> {
        let mut inherited = Vec::new();
        for &(branch, last) in view.lineage().iter().skip(skip) {
            self.db.scan(META, &meta::orphans_of(branch), &[], |key, _| {
                match meta::tail_u32_u64(key) {
                    Some((_, ino)) => inherited.push(Ino(ino)),
                    None => self.quarantine.add("orphan", key),
                }
                Ok(true)
            })?;
            self.departed(branch, |ino, epoch| {
                if epoch > last {
                    inherited.push(ino);
                }
            })?;
        }
        inherited.sort_unstable();
        inherited.dedup();
        let mut orphans = Vec::new();
        for ino in inherited {
            if self.is_orphan(view, ino)? {
                orphans.push(ino);
            }
        }
        Ok(orphans)
    }

    /// Returns the keys of the marks of departed orphans of a branch that nobody can inherit any more.
    pub(super) fn spent_departures(&self, branch: BranchId) -> Result<Vec<Vec<u8>>, FsError> {
        let mut departed = Vec::new();
        self.departed(branch, |ino, epoch| departed.push((ino, epoch)))?;
        let mut spent = Vec::new();
        for (ino, epoch) in departed {
            // It was an orphan from one epoch on until it departed, so the last that is retained in between decides.
            let last = Epoch(epoch.0.saturating_sub(1));
            let view = {
                let registry = self.registry.read();
                let pinned = registry.pinned_up_to(branch, last);
                // A cut under way is not in the registry yet.
                let cut = self.loaded_head(branch).map(|head: std::sync::Arc<Head>| head.retained());
                let retained = pinned.max(cut.filter(|&cut| cut <= last));
                retained.map(|epoch| registry.view(branch, epoch)).transpose()?
            };
            let needed = view.map(|view| self.is_orphan(&view, ino)).transpose()?.unwrap_or(false);
            if !needed {
                spent.push(meta::departed(branch, ino));
            }
        }
        Ok(spent)
    }

    fn departed(&self, branch: BranchId, mut visit: impl FnMut(Ino, Epoch)) -> Result<(), StoreError> {
        self.db.scan(META, &meta::departed_of(branch), &[], |key, value| {
            match (meta::tail_u32_u64(key), value.try_into().map(u64::from_le_bytes)) {
                (Some((_, ino)), Ok(epoch)) => visit(Ino(ino), Epoch(epoch)),
                _ => self.quarantine.add("departed orphan", key),
            }
            Ok(true)
        })
    }

    fn is_orphan(&self, view: &View, ino: Ino) -> Result<bool, StoreError> {
        let inode = view.inode(&self.db, ino)?.and_then(|found| found.record);
        Ok(inode.is_some_and(|inode| inode.nlink == 0))
    }
}
