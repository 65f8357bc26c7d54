//! Open descriptors of host lowers, kept so that a hot directory or file is not opened for every access.
//!
//! # Overview
//! One small cache for all lowers of the process, so that the number of descriptors is bounded however
//! many volumes there are: a few shards, each a short array that is searched from end to end.
//!
//! # Invariants
//! - At most [`SHARDS`] × [`SLOTS`] descriptors are kept.
//! - A descriptor is used for at most [`FRESH`] after its path was walked: a directory that was replaced
//!   in the lower is noticed after that.
//! - When a lower is closed none of its descriptors stays.
//!
//! # Concurrency
//! One mutex per shard, held for a search and never across a system call.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many independently locked parts there are.
const SHARDS: usize = 8;
/// How many descriptors each part keeps.
const SLOTS: usize = 32;
/// How long a descriptor stands for its path.
const FRESH: Duration = Duration::from_secs(1);

/// The one cache of the process.
pub(super) static DESCRIPTORS: DescriptorCache =
    DescriptorCache { shards: [const { Mutex::new(Vec::new()) }; SHARDS] };

/// Descriptors by lower, purpose and path.
pub(super) struct DescriptorCache {
    shards: [Mutex<Vec<Slot>>; SHARDS],
}

/// Tells the open lowers of this process apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LowerNumber(pub(super) u64);

/// What a descriptor was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// A directory, to look up names in.
    Walk,
    /// A regular file, to read from.
    Read,
}

struct Slot {
    hash: u64,
    lower: LowerNumber,
    purpose: Purpose,
    path: Box<[u8]>,
    descriptor: Arc<OwnedFd>,
    walked: Instant,
    used: Instant,
}

impl Slot {
    fn is(&self, hash: u64, lower: LowerNumber, purpose: Purpose, path: &[u8]) -> bool {
        self.hash == hash && self.lower == lower && self.purpose == purpose && *self.path == *path
    }
}

impl DescriptorCache {
    /// Returns the descriptor kept for a path, if its path was walked recently.
    pub(super) fn get(&self, lower: LowerNumber, purpose: Purpose, path: &[u8]) -> Option<Arc<OwnedFd>> {
        self.get_at(Instant::now(), lower, purpose, path)
    }

    fn get_at(
        &self,
        now: Instant,
        lower: LowerNumber,
        purpose: Purpose,
        path: &[u8],
    ) -> Option<Arc<OwnedFd>> {
        let hash = hash(lower, purpose, path);
        let mut shard = self.shard(hash);
        let slot = shard.iter_mut().find(|slot| slot.is(hash, lower, purpose, path))?;
        if now.duration_since(slot.walked) > FRESH {
            return None;
        }
        slot.used = now;
        Some(Arc::clone(&slot.descriptor))
    }

    /// Keeps a descriptor whose path was walked just now, in place of an older one for the same path or
    /// of the one that was not used for longest.
    pub(super) fn put(&self, lower: LowerNumber, purpose: Purpose, path: &[u8], descriptor: Arc<OwnedFd>) {
        let hash = hash(lower, purpose, path);
        let now = Instant::now();
        let slot = Slot { hash, lower, purpose, path: path.into(), descriptor, walked: now, used: now };
        let mut shard = self.shard(hash);
        let same = shard.iter().position(|old| old.is(hash, lower, purpose, path));
        let replaced = match same {
            None if shard.len() < SLOTS => None,
            None => (0..shard.len()).min_by_key(|index| shard[*index].used),
            found => found,
        };
        let old = match replaced {
            Some(index) => Some(std::mem::replace(&mut shard[index], slot)),
            None => {
                shard.push(slot);
                None
            }
        };
        drop(shard);
        // Closes outside the lock, unless another thread is using it.
        drop(old);
    }

    /// Drops every descriptor of a lower.
    pub(super) fn forget(&self, lower: LowerNumber) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let (gone, kept) = shard.drain(..).partition::<Vec<_>, _>(|slot| slot.lower == lower);
            *shard = kept;
            drop(shard);
            drop(gone);
        }
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Vec<Slot>> {
        // The remainder is below SHARDS, so it fits.
        lock(&self.shards[(hash % SHARDS as u64) as usize])
    }
}

/// Locks a shard. It is consistent at every step, so a panic elsewhere does not spoil it.
fn lock(shard: &Mutex<Vec<Slot>>) -> MutexGuard<'_, Vec<Slot>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hash(lower: LowerNumber, purpose: Purpose, path: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (lower, purpose, path).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> Arc<OwnedFd> {
        Arc::new(std::fs::File::open("/dev/null").unwrap().into())
    }

    fn cache() -> DescriptorCache {
        DescriptorCache { shards: [const { Mutex::new(Vec::new()) }; SHARDS] }
    }

    #[test]
    fn keeps_a_bounded_number_and_the_recently_used() {
        let cache = cache();
        let (lower, shared) = (LowerNumber(1), descriptor());
        for name in 0..10_000_u32 {
            cache.put(lower, Purpose::Walk, &name.to_be_bytes(), Arc::clone(&shared));
            assert!(cache.get(lower, Purpose::Walk, &0_u32.to_be_bytes()).is_some());
        }
        assert!(Arc::strong_count(&shared) <= SHARDS * SLOTS + 1);
    }

    #[test]
    fn purposes_and_lowers_do_not_share_descriptors() {
        let cache = cache();
        cache.put(LowerNumber(1), Purpose::Walk, b"a", descriptor());
        assert!(cache.get(LowerNumber(1), Purpose::Read, b"a").is_none());
        assert!(cache.get(LowerNumber(2), Purpose::Walk, b"a").is_none());
    }

    #[test]
    fn a_descriptor_stands_for_its_path_only_for_a_while() {
        let cache = cache();
        let (lower, first, second) = (LowerNumber(1), descriptor(), descriptor());
        cache.put(lower, Purpose::Walk, b"a", Arc::clone(&first));
        let later = Instant::now() + 2 * FRESH;
        assert!(cache.get_at(later, lower, Purpose::Walk, b"a").is_none());

        // Walked again, the path leads elsewhere; the first descriptor is closed.
        let before = Instant::now();
        cache.put(lower, Purpose::Walk, b"a", Arc::clone(&second));
        let found = cache.get_at(before, lower, Purpose::Walk, b"a").unwrap();
        assert!(Arc::ptr_eq(&found, &second));
        assert_eq!(Arc::strong_count(&first), 1);
    }

    #[test]
    fn closing_a_lower_closes_its_descriptors_only() {
        let cache = cache();
        let (one, two) = (descriptor(), descriptor());
        cache.put(LowerNumber(1), Purpose::Walk, b"a", Arc::clone(&one));
        cache.put(LowerNumber(2), Purpose::Walk, b"a", Arc::clone(&two));
        cache.forget(LowerNumber(1));
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (1, 2));
    }
}
