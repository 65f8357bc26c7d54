//! The groups of a file that are in memory.
//!
//! # Invariants
//! - What is cached of a group is its newest version that the tree sees: who stores another puts it here, under the inode's lock.

use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;

use crate::ids::{BranchId, Epoch};
use crate::store::record::Group;

/// Groups of one file that are kept whatever is kept of others.
const FEW: usize = 2048;
/// Groups of all files up to which one file may have more than that: some 40 MiB, the map of 4 GiB of data.
const MANY: usize = 1 << 16;

/// Groups that are cached, of all files of this process.
static CACHED: AtomicUsize = AtomicUsize::new(0);

/// A group, and which version of it is stored.
#[derive(Clone)]
pub(super) struct Cached {
    pub(super) group: Group,
    pub(super) version: Option<(BranchId, Epoch)>,
}

/// Groups of one file that were read or written lately.
#[derive(Default)]
pub(crate) struct GroupCache {
    groups: HashMap<u64, Cached>,
}

impl GroupCache {
    pub(super) fn get(&self, index: u64) -> Option<&Cached> {
        self.groups.get(&index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Cached)> {
        self.groups.iter().map(|(&index, cached)| (index, cached))
    }

    pub(super) fn insert(&mut self, index: u64, cached: Cached) {
        if self.groups.len() >= FEW && CACHED.load(Ordering::Relaxed) >= MANY {
            self.clear();
        }
        if self.groups.insert(index, cached).is_none() {
            CACHED.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn clear(&mut self) {
        CACHED.fetch_sub(self.groups.len(), Ordering::Relaxed);
        self.groups.clear();
    }
}

impl Drop for GroupCache {
    fn drop(&mut self) {
        CACHED.fetch_sub(self.groups.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_may_have_many_groups_and_all_together_no_more_than_that() {
        let cached = || Cached { group: Group::Removed, version: None };
        let mut one = GroupCache::default();
        for index in 0..MANY as u64 {
            one.insert(index, cached());
        }
        assert_eq!(one.iter().count(), MANY);
        let mut other = GroupCache::default();
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
