//! Which requests of a mount are being worked on, and since when.
//!
//! # Overview
//! Each thread that answers requests has a slot of its own, on a cache line of its own: two relaxed stores per request. Who
//! wants to know what hangs reads all slots.
//!
//! # Concurrency
//! A reader may miss a request that begins or ends just then, which is none that hangs. Threads beyond the last slot share
//! slots: what one of them works on may then be hidden by another.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::stats::OpKind;

/// More than threads answer requests of one mount: one per CPU, and 32 that wait for the disk.
const SLOTS: usize = 128;
const KIND_BITS: u32 = 8;

thread_local! {
    /// The mount that this thread serves, by the number of its slots, and the slot.
    static OWN: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
}

static LAST: AtomicU64 = AtomicU64::new(0);

/// 0 while idle, else microseconds since the mount was made, and the operation plus 1.
#[repr(align(64))]
struct Slot(AtomicU64);

/// The requests of one mount that are being worked on.
pub(super) struct InFlight {
    number: u64,
    made: Instant,
    claimed: AtomicUsize,
    slots: Vec<Slot>,
}

/// A request that has not been answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OldestRequest {
    /// What it asks for, such as `read`.
    pub operation: &'static str,
    /// How long ago it came.
    pub age: Duration,
    /// Tells it from those before and after it.
    pub id: u64,
}

/// Ends with the work on a request.
pub(super) struct Busy<'a>(&'a Slot);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Relaxed);
    }
}

impl InFlight {
    pub(super) fn new() -> Self {
        Self {
            number: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            made: Instant::now(),
            claimed: AtomicUsize::new(0),
            slots: (0..SLOTS).map(|_| Slot(AtomicU64::new(0))).collect(),
        }
    }

    /// Notes that this thread works on a request that came at `since`.
    pub(super) fn enter(&self, kind: OpKind, since: Instant) -> Busy<'_> {
        let slot = &self.slots[self.own_slot()];
        slot.0.store(self.micros(since) << KIND_BITS | (kind as u64 + 1), Ordering::Relaxed);
        Busy(slot)
    }

    /// Returns the request that is worked on for the longest time.
    pub(super) fn oldest(&self) -> Option<OldestRequest> {
        let words = self.slots.iter().map(|slot| slot.0.load(Ordering::Relaxed));
        let word = words.filter(|&word| word != 0).min()?;
        let kind = usize::try_from((word & ((1 << KIND_BITS) - 1)) - 1).ok()?;
        let age = self.micros(Instant::now()).saturating_sub(word >> KIND_BITS);
        let operation = OpKind::ALL.get(kind)?.name();
        Some(OldestRequest { operation, age: Duration::from_micros(age), id: word })
    }

    fn own_slot(&self) -> usize {
        let (number, slot) = OWN.get();
        if number == self.number {
            return slot;
        }
        let slot = self.claimed.fetch_add(1, Ordering::Relaxed) % SLOTS;
        OWN.set((self.number, slot));
        slot
    }

    fn micros(&self, at: Instant) -> u64 {
        // From 1 on: 0 stands for idle, and two thousand years fit.
        u64::try_from(at.saturating_duration_since(self.made).as_micros()).unwrap_or(u64::MAX >> KIND_BITS)
            + 1
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn the_oldest_request_of_all_threads_is_told() {
        let (one, other) = (InFlight::new(), InFlight::new());
        assert_eq!(one.oldest(), None);
        let came = Instant::now();
        let (entered, looked) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let busy = one.enter(OpKind::Read, came);
                entered.wait();
                looked.wait();
                drop(busy);
            });
            entered.wait();
            let later = one.enter(OpKind::Write, came + Duration::from_secs(1));
            let (oldest, of_other, passed) = (one.oldest(), other.oldest(), came.elapsed());
            // Before anything is asserted: a failure must not leave the other thread waiting for ever.
            looked.wait();
            drop(later);
            let oldest = oldest.unwrap();
            assert_eq!((oldest.operation, of_other), ("read", None));
            // Both ends are rounded down to microseconds.
            assert!(oldest.age <= passed + Duration::from_micros(1), "{oldest:?}, {passed:?}");
        });
        assert_eq!(one.oldest(), None);
    }

    #[test]
    fn a_request_that_was_handed_over_keeps_its_age() {
        let in_flight = InFlight::new();
        let came = Instant::now().checked_sub(Duration::from_secs(1)).expect("the machine is up for longer");
        let in_flight = InFlight { made: came, ..in_flight };
        let _busy = in_flight.enter(OpKind::Fsync, came);
        let oldest = in_flight.oldest().unwrap();
        assert!(oldest.operation == "fsync" && oldest.age >= Duration::from_secs(1), "{oldest:?}");
    }

    #[test]
    fn a_thread_that_serves_another_mount_gets_another_slot() {
        let (one, other) = (InFlight::new(), InFlight::new());
        let now = Instant::now();
        let first = one.enter(OpKind::Lookup, now);
        let second = other.enter(OpKind::Getattr, now);
        assert_eq!(one.oldest().map(|oldest| oldest.operation), Some("lookup"));
        drop(first);
        assert_eq!(other.oldest().map(|oldest| oldest.operation), Some("getattr"));
        drop(second);
        assert_eq!((one.oldest(), other.oldest()), (None, None));
    }
}
