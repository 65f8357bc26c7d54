//! Inodes that lost their last name and are not removed yet.
//!
//! They count until the kernel forgets them, which it does within moments where no program has them open. Whoever counts, or lacks
//! room, asks the kernel about them, or waits where it cannot be asked. Of one that stays nobody knows how long a program will hold it.
//!
//! # Invariants
//! - What is noted here is of the tree that the root shows. A rollback under the mount takes the old tree's away, after the last operation
//!   of it.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::ids::Ino;

/// In what time the kernel forgets what no program has open, also on a machine with much to do.
const MOMENTS: Duration = Duration::from_millis(50);

/// Inodes that lost their last name, and when.
#[derive(Default)]
pub(super) struct Unlinked {
    since: Mutex<HashMap<Ino, Instant>>,
}

/// What may be expected of the kernel, where it says no more than that it holds them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Forgetting {
    /// It has nothing to forget.
    Nothing,
    /// A program holds what has no name, for all that is known.
    Someday,
    /// It may be about to forget an inode.
    Soon,
}

impl Unlinked {
    pub(super) fn add(&self, ino: Ino) {
        self.since.lock().insert(ino, Instant::now());
    }

    pub(super) fn remove(&self, inos: impl Iterator<Item = Ino>) {
        let mut since = self.since.lock();
        for ino in inos {
            since.remove(&ino);
        }
    }

    /// Returns what was unlinked until then and is not removed.
    pub(super) fn before(&self, until: Instant) -> Vec<Ino> {
        self.since.lock().iter().filter(|(_, since)| **since <= until).map(|(&ino, _)| ino).collect()
    }

    pub(super) fn clear(&self) {
        self.since.lock().clear();
    }

    pub(super) fn forgetting(&self) -> Forgetting {
        self.forgetting_at(Instant::now())
    }

    fn forgetting_at(&self, now: Instant) -> Forgetting {
        let since = self.since.lock();
        match since.values().any(|&since| now.saturating_duration_since(since) < MOMENTS) {
            true => Forgetting::Soon,
            false if since.is_empty() => Forgetting::Nothing,
            false => Forgetting::Someday,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_unlinked_is_waited_for_and_what_is_held_is_not() {
        let unlinked = Unlinked::default();
        assert_eq!(unlinked.forgetting(), Forgetting::Nothing);
        unlinked.add(Ino(2));
        let now = Instant::now();
        assert_eq!(unlinked.forgetting_at(now), Forgetting::Soon);
        assert_eq!(unlinked.forgetting_at(now + MOMENTS), Forgetting::Someday);
        unlinked.add(Ino(3));
        unlinked.remove([Ino(3), Ino(4)].into_iter());
        assert_eq!(unlinked.forgetting_at(now + MOMENTS), Forgetting::Someday);
        unlinked.remove([Ino(2)].into_iter());
        assert_eq!(unlinked.forgetting(), Forgetting::Nothing);
    }
}
