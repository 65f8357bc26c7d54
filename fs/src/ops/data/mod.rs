//! The bytes of a regular file: where they are read from, and how a change of them is staged.
//!
//! A change is planned against the file's groups, writes whole new pages into the head's segment, stages the new groups in the
//! transaction, and rewrites in place what may be. All data is where it belongs before the commit makes it visible.
//!
//! # Invariants
//! - Only a page that the current epoch allocated is rewritten in place, only with bytes that a program wrote, and only after a record without its checksum
//!   is in the log. Whoever dies in between leaves old bytes or new ones, never a page that fails its checksum.
//! - Bytes of a page beyond the end of the file are zero, and so are those of an inline group. What a crash leaves there goes before the file
//!   grows over it: `tail.rs`.
//! - A freed page was seen by nobody but this head: it was allocated after the newest retained epoch.

mod plan;
mod read;
mod shared;
mod steps;
mod tail;
mod truncate;
mod version;
mod write;

use super::VolumeFs;
use super::group_cache::Cached;
use super::node::{Node, NodeRef, NodeState};
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, Ino};
use crate::store::record::{GROUP_SIZE, Group, Page, PageRef};
use crate::store::{Txn, Versioned};

use plan::InPlace;
pub(super) use shared::{Lent, Shared};

/// A file of up to this many bytes lies in its record.
pub(super) const INLINE_MAX: u64 = 2048;

/// What a change leaves to be done after its commit.
#[derive(Default)]
pub(super) struct Staged {
    groups: Vec<(u64, Cached)>,
    forget_all: bool,
    /// Groups as they are, but for the checksums of pages that are rewritten in place.
    ahead: Vec<(u64, Cached)>,
    rewrites: Vec<InPlace>,
}

impl Staged {
    /// Tells whether records have to be in the log before anything is rewritten in place.
    pub(super) fn has_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Adds what another part of the same change leaves. Neither rewrites anything.
    fn join(&mut self, other: Staged) {
        debug_assert!(!other.has_ahead() && other.rewrites.is_empty(), "zeros are not written in place");
        self.forget_all |= other.forget_all;
        self.groups.extend(other.groups);
    }

    /// Takes the new groups into memory, once they are committed.
    pub(super) fn apply(self, state: &mut NodeState) {
        let cache = state.groups.get_mut().get_or_insert_default();
        if self.forget_all {
            cache.clear();
        }
        for (index, cached) in self.groups {
            cache.insert(index, cached);
        }
    }
}

/// What a range of a file is to become.
#[derive(Clone, Copy)]
pub(super) enum Fill<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Zeros that take no space where whole pages are covered.
    Zeros(u64),
}

impl Fill<'_> {
    fn len(&self) -> u64 {
        match *self {
            Fill::Bytes(bytes) => bytes.len() as u64,
            Fill::Zeros(len) => len,
        }
    }
}

impl NodeState {
    /// Tells whether the page of a group that was just looked at is not stored, so that a lower shows through.
    fn is_below(&self, index: u64, position: usize) -> bool {
        let mut cache = self.groups.lock();
        match cache.as_mut().and_then(|cache| cache.get_mut(index)).map(|cached| &cached.group) {
            Some(Group::Pages(pages)) => pages.get(position) == Some(&Page::Base),
            Some(Group::Inline(_)) => false,
            Some(Group::Removed) | None => true,
        }
    }

    /// Tells whether a file surely has no group stored: it was made in this epoch and holds nothing.
    pub(super) fn is_blank(&self, node: &Node) -> bool {
        let is_new = node.tree.head.as_ref().is_some_and(|head| head.is_new(node.ino));
        self.inode.stored == 0 && is_new
    }

    /// Returns all groups of a file that was made in this epoch, if they are in memory: what they store is what the inode
    /// says. Without a lower there are no holes, so that no group stores nothing.
    pub(super) fn all_groups(&self) -> Option<Vec<(u64, Group)>> {
        let cache = self.groups.lock();
        let cached = cache.iter().flat_map(|cache| cache.iter());
        let groups: Vec<(u64, Group)> = cached
            .filter(|(_, cached)| cached.group.stored() > 0)
            .map(|(index, cached)| (index, cached.group.clone()))
            .collect();
        let stored: u64 = groups.iter().map(|(_, group)| group.stored()).sum();
        (stored == self.inode.stored).then_some(groups)
    }

    /// Adds a checksum that was found to a group in memory.
    fn cache_crc(&self, index: u64, position: usize, version: Option<(BranchId, Epoch)>, sealed: PageRef) {
        if let Some(cached) = self.groups.lock().as_mut().and_then(|cache| cache.get_mut(index))
            && cached.version == version
            && let Group::Pages(pages) = &mut cached.group
            && let Some(Page::Data(data)) = pages.get_mut(position)
            && data.is_at(sealed)
        {
            data.crc = sealed.crc;
        }
    }

    /// Takes a group into memory that was committed.
    pub(super) fn cache_group(&mut self, index: u64, group: Cached) {
        self.groups.get_mut().get_or_insert_default().insert(index, group);
    }
}

impl VolumeFs {
    /// Returns a group, from memory or the store, to be changed.
    fn group(&self, node: &NodeRef<'_>, state: &NodeState, index: u64) -> Result<Cached, FsError> {
        let mut cache = state.groups.lock();
        let cache = cache.get_or_insert_default();
        if let Some(cached) = cache.get(index) {
            return Ok(cached.clone());
        }
        let cached = self.load_group(node, state, index)?;
        cache.insert(index, cached.clone());
        Ok(cached)
    }

    /// Returns a group, from memory or the store, to be read. The content of a small file is not kept for that: the kernel has it
    /// from then on, and a million such files would be gigabytes.
    fn group_to_read(&self, node: &NodeRef<'_>, state: &NodeState, index: u64) -> Result<Cached, FsError> {
        let mut cache = state.groups.lock();
        if let Some(cached) = cache.as_ref().and_then(|cache| cache.get(index)) {
            return Ok(cached.clone());
        }
        let cached = self.load_group(node, state, index)?;
        if !matches!(cached.group, Group::Inline(_)) {
            cache.get_or_insert_default().insert(index, cached.clone());
        }
        Ok(cached)
    }

    fn load_group(&self, node: &NodeRef<'_>, state: &NodeState, index: u64) -> Result<Cached, FsError> {
        let merged = &node.tree.merged;
        let found = match state.is_blank(node) {
            true => None,
            false => merged.view.group(&merged.store.db, node.ino, index)?,
        };
        Ok(match found {
            None => Cached { group: Group::base(), version: None, born: 0 },
            Some(Versioned { record: Group::Removed, branch, epoch }) => {
                Cached { group: Group::base(), version: Some((branch, epoch)), born: 0 }
            }
            Some(Versioned { record, branch, epoch }) => {
                Cached { group: record, version: Some((branch, epoch)), born: 0 }
            }
        })
    }

    /// Lets go of a page.
    pub(super) fn release(&self, txn: &mut Txn<'_>, ino: Ino, index: u64, page: Page) {
        if let Page::Data(data) = page {
            txn.release(ino, index, data);
        }
    }

    /// Forgets what is cached of a file's groups.
    pub(super) fn forget_groups(&self, state: &mut NodeState) {
        *state.groups.get_mut() = None;
    }
}

/// Splits an offset into a group and the offset in it.
pub(super) fn split(offset: u64) -> (u64, usize) {
    let size = GROUP_SIZE as u64;
    (offset / size, usize::try_from(offset % size).unwrap_or(0))
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Copies `source` into `target` at `at`, as far as it fits.
fn copy(target: &mut [u8], at: usize, source: &[u8]) {
    if let Some(target) = target.get_mut(at..).map(|rest| {
        let length = rest.len().min(source.len());
        &mut rest[..length]
    }) {
        target.copy_from_slice(&source[..target.len()]);
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::super::{Caller, KillSuid, VolumeFs};
    use crate::ids::NodeId;
    use crate::store::{Receipt, Store, StoreOptions, VolumeSpec};

    fn kept(fs: &VolumeFs, node: NodeId) -> usize {
        let node = fs.nodes.get(node).unwrap();
        let state = node.state.read();
        let groups = state.groups.lock();
        groups.as_ref().map_or(0, |groups| groups.iter().count())
    }

    #[test]
    fn content_of_a_small_file_is_kept_for_writers_alone() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { background: false, ..StoreOptions::default() };
        let store = Store::open(&dir.path().join("store"), &options).unwrap();
        store.create_volume("v", &VolumeSpec::default(), Receipt::none()).unwrap();
        let fs = store.open_head("v").unwrap();
        let root = Caller { uid: 0, gid: 0, pid: 1 };
        let known = |name: &str, len: usize| {
            let made = fs.create(&root, NodeId::ROOT, OsStr::new(name), 0o100_644, 0).unwrap().node;
            fs.write(made, 0, &vec![7; len], KillSuid::No).unwrap();
            fs.forget(made, 1);
            fs.lookup(&root, NodeId::ROOT, OsStr::new(name)).unwrap().node
        };
        let read = |node, len| {
            let mut bytes = Vec::new();
            fs.read(node, 0, len + 1, &mut bytes).unwrap();
            assert_eq!(bytes.len(), len);
            bytes
        };
        let small = known("small", 2000);
        assert_eq!(read(small, 2000), [7; 2000]);
        assert_eq!(kept(&fs, small), 0);
        fs.write(small, 0, b"x", KillSuid::No).unwrap();
        assert_eq!(kept(&fs, small), 1);
        assert_eq!(read(small, 2000)[..2], *b"x\x07");
        let large = known("large", 100_000);
        assert_eq!(read(large, 100_000), [7; 100_000]);
        assert_eq!(kept(&fs, large), 2);
    }
}
