//! Waiting for something that happens in another process: a probe and a deadline, never a guess at
//! how long it takes.

use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Asks `probe` until it answers, and returns its answer.
///
/// # Panics
/// When the deadline passes; the message names what was waited for.
pub fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "still not after {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Returns once the kernel's coarse clock has moved on, so that a timestamp taken from now on is
/// later than any taken before.
pub fn next_tick() {
    let coarse = || clock_gettime(ClockId::CLOCK_REALTIME_COARSE).unwrap();
    let start = coarse();
    while coarse() == start {
        thread::yield_now();
    }
}
