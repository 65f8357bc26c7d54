//! The groups of a file that are in memory.
//!
//! # Invariants
//! - What is cached of a group is its newest version that the tree sees: who stores another puts it here, under the inode's lock.

use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;

use crate::ids::{BranchId, Epoch};
use crate::store::record::Group;

/// Groups of one file that are kept whatever is kept of others.
pub(super) const FEW: usize = 2048;
/// Groups of all files up to which one file may have more than that: some 40 MiB, the map of 4 GiB of data.
const MANY: usize = 1 << 16;

/// Groups that are cached, of all files of this process.
static CACHED: AtomicUsize = AtomicUsize::new(0);

/// A group, and which version of it is stored.
#[derive(Clone)]
pub(super) struct Cached {
    pub(super) group: Group,
    pub(super) version: Option<(BranchId, Epoch)>,
    /// How many syncs had begun when all of this content was new; 0 where that is not known. If no other began since,
    /// nobody was promised to find any of it after a loss of power.
    pub(super) born: u64,
}

/// Groups of one file that were read or written lately.
pub(crate) struct GroupCache {
    groups: HashMap<u64, Cached>,
    /// Counts them together with those of other files.
    all: &'static AtomicUsize,
}

impl Default for GroupCache {
    fn default() -> GroupCache {
        GroupCache::counted_in(&CACHED)
    }
}

impl GroupCache {
    fn counted_in(all: &'static AtomicUsize) -> GroupCache {
        GroupCache { groups: HashMap::new(), all }
    }

    pub(super) fn get(&self, index: u64) -> Option<&Cached> {
        self.groups.get(&index)
    }

    pub(super) fn get_mut(&mut self, index: u64) -> Option<&mut Cached> {
        self.groups.get_mut(&index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Cached)> {
        self.groups.iter().map(|(&index, cached)| (index, cached))
    }

    pub(super) fn insert(&mut self, index: u64, cached: Cached) {
        if self.groups.len() >= FEW && self.all.load(Ordering::Relaxed) >= MANY {
            self.clear();
        }
        if self.groups.insert(index, cached).is_none() {
            self.all.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn clear(&mut self) {
        self.all.fetch_sub(self.groups.len(), Ordering::Relaxed);
        self.groups.clear();
    }
}

impl Drop for GroupCache {
    fn drop(&mut self) {
        self.all.fetch_sub(self.groups.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_may_have_many_groups_and_all_together_no_more_than_that() {
        let cached = || Cached { group: Group::Removed, version: None, born: 0 };
        static ALL: AtomicUsize = AtomicUsize::new(0);
        let mut one = GroupCache::counted_in(&ALL);
        for index in 0..MANY as u64 {
            one.insert(index, cached());
        }
        assert_eq!(one.iter().count(), MANY);
        let mut other = GroupCache::counted_in(&ALL);
        for index in 0..=FEW as u64 {
            other.insert(index, cached());
        }
        assert_eq!(other.iter().count(), 1);
        drop(one);
        for index in 0..2 * FEW as u64 {
            other.insert(index, cached());
        }
        assert_eq!(other.iter().count(), 2 * FEW);
    }
}
