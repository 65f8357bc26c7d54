//! Threads on which an fsync waits for the disk, when the session's own are needed elsewhere.
//!
//! # Overview
//! An fsync takes as long as hundreds of other operations. Were all threads of a session in one, every
//! other request would wait with them, and concurrent fsyncs could not share one write to the disk.
//! So all but one of the session's threads may wait, and what comes beyond that waits here. The
//! hand-over costs little beside the disk.
//!
//! # Cancellation
//! Dropping the pool finishes what is waiting, and joins the threads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::affinity::Cpus;

/// How many fsyncs wait at once at most; more than a disk write can usefully carry.
const LIMIT: usize = 32;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that wait, started when first needed.
pub(super) struct SyncPool {
    shared: Arc<Shared>,
    /// How many of the session's own threads may wait.
    own: usize,
    own_waiting: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    cpus: Cpus,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    closed: bool,
}

impl SyncPool {
    /// Returns a pool for a session of `threads`, whose threads run on any of `cpus`.
    pub(super) fn new(threads: usize, cpus: Cpus) -> Self {
        let shared = Shared { cpus, queue: Mutex::default(), changed: Condvar::new() };
        Self {
            shared: Arc::new(shared),
            own: threads.saturating_sub(1),
            own_waiting: AtomicUsize::new(0),
            threads: Mutex::default(),
        }
    }

    /// Runs `job` on this thread if that leaves another for other requests, else on one of the pool's.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if self.own_waiting.fetch_add(1, Ordering::Relaxed) < self.own {
            job();
            self.own_waiting.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.own_waiting.fetch_sub(1, Ordering::Relaxed);
        let mut queue = self.shared.queue.lock();
        queue.jobs.push_back(Box::new(job));
        let short = queue.jobs.len() > queue.idle;
        drop(queue);
        self.shared.changed.notify_one();
        if short {
            self.add_thread();
        }
    }

    fn add_thread(&self) {
        let mut threads = self.threads.lock();
        if threads.len() == LIMIT {
            return;
        }
        let shared = Arc::clone(&self.shared);
        match std::thread::Builder::new().name("durdir-fsync".into()).spawn(move || shared.serve()) {
            Ok(thread) => threads.push(thread),
            Err(error) if threads.is_empty() => {
                tracing::warn!(%error, "no thread to wait for the disk, the session waits");
                drop(threads);
                self.shared.drain();
            }
            Err(error) => tracing::warn!(%error, "fewer threads than wanted wait for the disk"),
        }
    }
}

impl Shared {
    fn serve(&self) {
        // Started by a thread that is pinned to one CPU.
        self.cpus.spread_this_thread();
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = self.queue.lock();
            } else if queue.closed {
                return;
            } else {
                queue.idle += 1;
                self.changed.wait(&mut queue);
                queue.idle -= 1;
            }
        }
    }

    /// Runs everything that waits, on this thread.
    fn drain(&self) {
        loop {
            let job = self.queue.lock().jobs.pop_front();
            match job {
                Some(job) => job(),
                None => return,
            }
        }
    }
}

impl Drop for SyncPool {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.changed.notify_all();
        for thread in self.threads.get_mut().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that waits for the disk had panicked");
            }
        }
        self.shared.drain();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn more_jobs_than_threads_wait_at_once_and_all_are_done() {
        for threads in [1, 2, 4] {
            let pool = SyncPool::new(threads, Cpus::of_this_process());
            let own = threads - 1;
            let together = Arc::new(Barrier::new(own + 8));
            let (tell, told) = mpsc::channel();
            std::thread::scope(|scope| {
                // Each job waits for all the others: one at a time would never end.
                for _ in 0..own + 8 {
                    let (together, tell, pool) = (Arc::clone(&together), tell.clone(), &pool);
                    scope.spawn(move || {
                        pool.run(move || {
                            together.wait();
                            tell.send(()).unwrap();
                        });
                    });
                }
                for _ in 0..own + 8 {
                    told.recv_timeout(Duration::from_secs(20)).unwrap();
                }
            });
        }
    }

    #[test]
    fn what_waits_when_the_pool_is_dropped_is_done() {
        let pool = SyncPool::new(1, Cpus::of_this_process());
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..100 {
            let done = Arc::clone(&done);
            pool.run(move || {
                std::thread::sleep(Duration::from_millis(1));
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        drop(pool);
        assert_eq!(done.load(Ordering::Relaxed), 100);
    }
}
