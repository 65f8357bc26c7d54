//! How long to wait before the next worker.

use std::time::Duration;

/// A worker that served is replaced at once: programs wait. One that did not get that far may be in want of something
/// that comes back, and starting it costs.
const DELAYS_MS: [u64; 7] = [0, 10, 50, 100, 250, 500, 1000];

/// Counts workers in a row that did not get ready.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: usize,
}

impl Backoff {
    /// Forgets what went wrong: a worker is ready.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns how long to wait after the end of a worker.
    pub(super) fn next(&mut self, was_ready: bool) -> Duration {
        if was_ready {
            self.failures = 0;
            return Duration::ZERO;
        }
        let last = DELAYS_MS.len() - 1;
        let delay = DELAYS_MS.get(self.failures.min(last)).copied().unwrap_or(0);
        self.failures += 1;
        Duration::from_millis(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_that_do_not_get_ready_are_waited_for() {
        let mut backoff = Backoff::default();
        let mut next = |was_ready| backoff.next(was_ready).as_millis();
        assert_eq!([next(true), next(true), next(false), next(false), next(false)], [0, 0, 0, 10, 50]);
        let later: Vec<u128> = (0..6).map(|_| next(false)).collect();
        assert_eq!(later, [100, 250, 500, 1000, 1000, 1000]);
        assert_eq!([next(true), next(false), next(false)], [0, 0, 10]);
    }
}
