//! The gate that mutating operations pass, and the instant of a cut.
//!
//! An operation learns at the gate which epoch it belongs to and holds its admission until its batch is
//! written. A cut does three things: it [closes](Gate::close) the gates of all volumes it is
//! about, moves each to the next epoch, and opens them again; then it waits, with the gates
//! open, until the admissions to the old epoch are gone. Operations are thus held only
//! while a few words are stored, never while another operation finishes.
//!
//! # Invariants
//! - An operation is admitted while it holds the locks of all inodes it will change. Epochs only grow, so
//!   two operations on one inode write their versions in the order in which they held its lock.
//! - While the gates of several volumes are closed together nobody is admitted to any of them:
//!   an operation that began after another returned is never in an older epoch than that other, whatever
//!   volumes the two are in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::ids::Epoch;

const CLOSED: u64 = 1;
/// The gate of a head that is nobody's any more; no epoch is that large.
const RETIRED: u64 = u64::MAX;

/// The gate of one head.
pub(crate) struct Gate {
    /// Epoch × 2, plus 1 while closed.
    word: AtomicU64,
    /// Operations inside, by the parity of their epoch.
    inside: [AtomicU64; 2],
    waiting: Mutex<()>,
    changed: Condvar,
}

/// The right to write in an epoch.
pub(crate) struct Admission<'a> {
    gate: &'a Gate,
    epoch: Epoch,
}

impl Gate {
    pub(crate) fn new(epoch: Epoch) -> Gate {
        Gate {
            word: AtomicU64::new(epoch.0 << 1),
            inside: [AtomicU64::new(0), AtomicU64::new(0)],
            waiting: Mutex::new(()),
            changed: Condvar::new(),
        }
    }

    /// The epoch that an operation would be admitted to now.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.word.load(Ordering::SeqCst) >> 1)
    }

    /// Admits an operation to the current epoch; waits while a cut holds the gate. `None` once the head is retired.
    pub(crate) fn enter(&self) -> Option<Admission<'_>> {
        loop {
            let word = self.word.load(Ordering::SeqCst);
            if word == RETIRED {
                return None;
            }
            if word & CLOSED != 0 {
                let mut waiting = self.waiting.lock();
                let word = self.word.load(Ordering::SeqCst);
                if word & CLOSED != 0 && word != RETIRED {
                    self.changed.wait(&mut waiting);
                }
                continue;
            }
            let epoch = Epoch(word >> 1);
            let inside = self.inside(epoch);
            inside.fetch_add(1, Ordering::SeqCst);
            // A cut that closed the gate in between does not know of us: step back.
            if self.word.load(Ordering::SeqCst) == word {
                return Some(Admission { gate: self, epoch });
            }
            self.leave(epoch);
        }
    }

    /// Closes the gate. Only one cut at a time may use a gate; the head's cut lock sees to that.
    pub(crate) fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::SeqCst);
    }

    /// Moves to the next epoch, while closed. Returns the epoch that ended.
    pub(crate) fn advance(&self) -> Epoch {
        Epoch(self.word.fetch_add(2, Ordering::SeqCst) >> 1)
    }

    /// Opens the gate.
    pub(crate) fn open(&self) {
        self.word.fetch_and(!CLOSED, Ordering::SeqCst);
        drop(self.waiting.lock());
        self.changed.notify_all();
    }

    /// Admits nobody any more, and waits until nobody is inside. Returns what [`Gate::reinstate`] takes.
    pub(crate) fn retire(&self) -> Epoch {
        let epoch = Epoch(self.word.swap(RETIRED, Ordering::SeqCst) >> 1);
        drop(self.waiting.lock());
        self.changed.notify_all();
        self.drain(epoch);
        self.drain(epoch.next());
        epoch
    }

    /// Takes a retirement back.
    pub(crate) fn reinstate(&self, epoch: Epoch) {
        self.word.store(epoch.0 << 1, Ordering::SeqCst);
    }

    /// Waits until no operation of `epoch`, which has ended, is inside. Returns how long it took.
    pub(crate) fn drain(&self, epoch: Epoch) -> Duration {
        let start = Instant::now();
        let mut waiting = self.waiting.lock();
        while self.inside(epoch).load(Ordering::SeqCst) > 0 {
            self.changed.wait(&mut waiting);
        }
        start.elapsed()
    }

    fn inside(&self, epoch: Epoch) -> &AtomicU64 {
        let [even, odd] = &self.inside;
        if epoch.0.is_multiple_of(2) { even } else { odd }
    }

    fn leave(&self, epoch: Epoch) {
        let last = self.inside(epoch).fetch_sub(1, Ordering::SeqCst) == 1;
        // Somebody drains only epochs that ended.
        if last && self.word.load(Ordering::SeqCst) != epoch.0 << 1 {
            drop(self.waiting.lock());
            self.changed.notify_all();
        }
    }
}

impl Admission<'_> {
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl Clone for Admission<'_> {
    /// Holds the same epoch once more; it cannot have ended while `self` holds it.
    fn clone(&self) -> Self {
        self.gate.inside(self.epoch).fetch_add(1, Ordering::SeqCst);
        Admission { gate: self.gate, epoch: self.epoch }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.gate.leave(self.epoch);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_cut_never_misses_an_operation_of_the_epoch_it_ended() {
        let gate = Arc::new(Gate::new(Epoch(1)));
        let stop = Arc::new(AtomicBool::new(false));
        // Per epoch parity: how many operations are between admission and leaving, as they see it.
        let busy = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let (gate, stop, busy) = (gate.clone(), stop.clone(), busy.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let admission = gate.enter().unwrap();
                        let parity = (admission.epoch().0 % 2) as usize;
                        busy[parity].fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        busy[parity].fetch_sub(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for _ in 0..2000 {
            gate.close();
            let ended = gate.advance();
            gate.open();
            gate.drain(ended);
            assert_eq!(busy[(ended.0 % 2) as usize].load(Ordering::SeqCst), 0);
        }
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(gate.epoch(), Epoch(2001));
    }
}
