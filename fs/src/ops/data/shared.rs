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

/// What one file lends to another.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Lent {
    /// A page of a segment.
    Page(PageRef),
    /// A page of zeros that is not stored.
    Zeros,
}

/// A group that lends pages to another file, or borrows some.
pub(in crate::ops) struct Shared {
    before: Cached,
    group: Group,
    changed: bool,
}

impl Shared {
    /// Returns what another file may have of a page: one in a segment, which is marked as shared, or zeros that are nowhere. `None` if
    /// its bytes have to be copied. `below`: whether a lower shows through where nothing is stored. `is_suspect`: which pages the host may
    /// have lost.
    pub(in crate::ops) fn lend(
        &mut self,
        position: usize,
        below: bool,
        is_suspect: impl Fn(PageRef) -> bool,
    ) -> Option<Lent> {
        let Group::Pages(pages) = &mut self.group else { return None };
        match pages.get_mut(position)? {
            // Rewritten in place, so that the disk may have what it was before: that must not come to be seen in another file.
            Page::Data(PageRef { crc: None, .. }) => None,
            // What stands in for it are older versions of this group, which another file has not.
            Page::Data(data) if is_suspect(*data) => None,
            Page::Data(data) => {
                self.changed |= !data.shared;
                data.shared = true;
                Some(Lent::Page(*data))
            }
            Page::Base if below => None,
            Page::Base | Page::Hole => Some(Lent::Zeros),
        }
    }

    /// Tells whether the group consists of pages.
    pub(in crate::ops) fn has_pages(&self) -> bool {
        matches!(self.group, Group::Pages(_))
    }

    /// Takes in what another group lends. Returns the page that it replaces.
    pub(in crate::ops) fn borrow(&mut self, position: usize, lent: Lent, below: bool) -> Page {
        let Group::Pages(pages) = &mut self.group else { return Page::Base };
        let Some(page) = pages.get_mut(position) else { return Page::Base };
        let new = match lent {
            Lent::Page(data) => Page::Data(data),
            Lent::Zeros if below => Page::Hole,
            Lent::Zeros => Page::Base,
        };
        self.changed |= *page != new;
        std::mem::replace(page, new)
    }

    /// Returns by how many stored bytes the group grows.
    pub(in crate::ops) fn growth(&self) -> i64 {
        signed(self.group.stored()) - signed(self.before.group.stored())
    }
}
