//! Sharing one sync among all who wait for one.
//!
//! # Invariants
//! - A caller returns only after a sync that began after its call.
//! - At most one sync runs at a time; whoever arrives meanwhile shares the next.

use parking_lot::{Condvar, Mutex};

#[derive(Default)]
struct Rounds {
    started: u64,
    finished: u64,
    /// The last round that failed: its callers get an error too.
    failed: Option<u64>,
    running: bool,
}

/// Groups concurrent syncs.
#[derive(Default)]
pub(crate) struct GroupSync {
    rounds: Mutex<Rounds>,
    round_ended: Condvar,
}

impl GroupSync {
    /// Runs `sync`, or waits for somebody else's that begins after this call.
    ///
    /// Callers whose round was run by somebody else and failed run `sync` themselves, and so get the error.
    pub(crate) fn run<E>(&self, sync: impl Fn() -> Result<(), E>) -> Result<(), E> {
        let mut rounds = self.rounds.lock();
        let mine = rounds.started + 1;
        while rounds.running {
            self.round_ended.wait(&mut rounds);
            if rounds.finished >= mine && rounds.failed.is_none_or(|failed| failed < mine) {
                return Ok(());
            }
        }
        rounds.running = true;
        rounds.started += 1;
        let round = rounds.started;
        drop(rounds);
        let result = sync();
        let mut rounds = self.rounds.lock();
        rounds.running = false;
        rounds.finished = round;
        if result.is_err() {
            rounds.failed = Some(round);
        }
        drop(rounds);
        self.round_ended.notify_all();
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};

    use super::*;

    #[test]
    fn callers_that_wait_share_a_sync_that_began_after_them() {
        let group = Arc::new(GroupSync::default());
        let (syncs, written) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let barrier = Arc::new(Barrier::new(8));
        let threads = (0..8).map(|_| {
            let (group, syncs, written, barrier) =
                (group.clone(), syncs.clone(), written.clone(), barrier.clone());
            std::thread::spawn(move || {
                barrier.wait();
                for _ in 0..200 {
                    let mine = written.fetch_add(1, Ordering::SeqCst) + 1;
                    let durable = AtomicUsize::new(0);
                    group
                        .run(|| {
                            durable.store(written.load(Ordering::SeqCst), Ordering::SeqCst);
                            syncs.fetch_add(1, Ordering::SeqCst);
                            Ok::<(), ()>(())
                        })
                        .unwrap();
                    // Where this thread ran the sync itself, it covered its own write.
                    assert!(durable.load(Ordering::SeqCst) == 0 || durable.load(Ordering::SeqCst) >= mine);
                }
            })
        });
        for thread in threads.collect::<Vec<_>>() {
            thread.join().unwrap();
        }
        assert!(syncs.load(Ordering::SeqCst) <= 1600);
    }

    #[test]
    fn an_error_reaches_the_caller() {
        assert_eq!(GroupSync::default().run(|| Err("full")), Err("full"));
    }
}
