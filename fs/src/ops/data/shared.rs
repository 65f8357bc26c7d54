//! Groups that lend pages to another file, or borrow some.

use super::signed;
use crate::error::FsError;
use crate::ids::Ino;
use crate::ops::VolumeFs;
use crate::ops::group_cache::Cached;
use crate::ops::node::{NodeRef, NodeState};
use crate::store::Txn;
use crate::store::record::{Group, Page, PageRef};

impl VolumeFs {
    /// Returns a group to be changed by sharing.
    pub(in crate::ops) fn shared_group(
        &self,
        node: &NodeRef<'_>,
        state: &NodeState,
        index: u64,
    ) -> Result<Shared, FsError> {
        let before = self.group(node, state, index)?;
        Ok(Shared { group: before.group.clone(), before, changed: false })
    }

    /// Stages a group that was changed by sharing.
    pub(in crate::ops) fn stage_shared(
        &self,
        txn: &mut Txn<'_>,
        ino: Ino,
        index: u64,
        shared: Shared,
    ) -> Result<Cached, FsError> {
        self.stage_group(txn, ino, index, shared.before, shared.group, shared.changed)
    }
}

/// A group that lends pages to another file, or borrows some.
pub(in crate::ops) struct Shared {
    before: Cached,
    group: Group,
    changed: bool,
}

impl Shared {
    /// Marks a page as shared and returns it; `None` if it is not in a segment.
    pub(in crate::ops) fn lend(&mut self, position: usize) -> Option<PageRef> {
        let Group::Pages(pages) = &mut self.group else { return None };
        match pages.get_mut(position) {
            Some(Page::Data(data)) => {
                self.changed |= !data.shared;
                data.shared = true;
                Some(*data)
            }
            _ => None,
        }
    }

    /// Tells whether the group consists of pages.
    pub(in crate::ops) fn has_pages(&self) -> bool {
        matches!(self.group, Group::Pages(_))
    }

    /// Takes a page of another group in. Returns the one it replaces.
    pub(in crate::ops) fn borrow(&mut self, position: usize, page: PageRef) -> Page {
        let Group::Pages(pages) = &mut self.group else { return Page::Base };
        self.changed = true;
        pages.get_mut(position).map_or(Page::Base, |old| std::mem::replace(old, Page::Data(page)))
    }

    /// Returns by how many stored bytes the group grows.
    pub(in crate::ops) fn growth(&self) -> i64 {
        signed(self.group.stored()) - signed(self.before.group.stored())
    }
}
