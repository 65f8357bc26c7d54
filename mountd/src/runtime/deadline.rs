//! Until when something may take.

use std::time::{Duration, Instant};

/// A moment after which nobody waits any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// Returns the moment that is so far away.
    pub(crate) fn after(time: Duration) -> Deadline {
        Deadline(Instant::now() + time)
    }

    /// Returns how much time there is left: zero once it has passed.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Tells whether it has passed.
    pub(crate) fn passed(self) -> bool {
        self.left().is_zero()
    }

    /// Returns this one, or an earlier one that is so far away: a step inside of a longer one.
    pub(crate) fn at_most(self, time: Duration) -> Deadline {
        Deadline(self.0.min(Instant::now() + time))
    }

    /// Returns this one, or a later one that is so far away: for what has to be cleaned up whatever happened before.
    pub(crate) fn at_least(self, time: Duration) -> Deadline {
        Deadline(self.0.max(Instant::now() + time))
    }
}
