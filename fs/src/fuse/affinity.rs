//! Where the threads of a transport run.
//!
//! A request that is answered on the CPU of its caller costs a few microseconds; one that wakes a
//! thread on another CPU costs ten times that. One thread is therefore pinned to each CPU that the
//! process may use, and the kernel finds one nearby.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

thread_local! {
    static PLACED: Cell<bool> = const { Cell::new(false) };
}

/// The CPUs that this process may use; none if that cannot be told.
#[derive(Clone)]
pub(super) struct Cpus(Vec<usize>);

impl Cpus {
    pub(super) fn of_this_process() -> Self {
        match sched_getaffinity(Pid::from_raw(0)) {
            Ok(allowed) => {
                let all = 0..CpuSet::count();
                Self(all.filter(|cpu| allowed.is_set(*cpu) == Ok(true)).collect())
            }
            Err(errno) => {
                tracing::warn!(%errno, "cannot tell which CPUs may be used: threads are not pinned");
                Self(Vec::new())
            }
        }
    }

    /// Returns how many threads are worth having, at least one.
    pub(super) fn count(&self) -> usize {
        self.0.len().max(1)
    }

    /// Lets the calling thread run on all of them.
    pub(super) fn spread_this_thread(&self) {
        if !self.0.is_empty() {
            restrict_this_thread(&self.0);
        }
    }
}

/// Deals the CPUs of a session out to its threads.
pub(super) struct CpuDealer {
    cpus: Cpus,
    next: AtomicUsize,
}

impl CpuDealer {
    pub(super) fn of(cpus: Cpus) -> Self {
        Self { cpus, next: AtomicUsize::new(0) }
    }

    /// Pins the calling thread to the next CPU, unless it has been pinned before.
    ///
    /// fuser starts its threads itself and has no hook for it, so a thread does this at its first
    /// request.
    pub(super) fn place_this_thread(&self) {
        let Cpus(cpus) = &self.cpus;
        if !PLACED.replace(true) && !cpus.is_empty() {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            restrict_this_thread(&[cpus[turn % cpus.len()]]);
        }
    }
}

fn restrict_this_thread(cpus: &[usize]) {
    let mut set = CpuSet::new();
    let filled = cpus.iter().try_for_each(|cpu| set.set(*cpu));
    if let Err(errno) = filled.and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)) {
        // A CPU may have gone offline since. The thread works anywhere, only slower.
        tracing::warn!(?cpus, %errno, "cannot place a filesystem thread");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_pinned_once_to_one_allowed_cpu_and_can_be_freed() {
        let cpus = Cpus::of_this_process();
        let dealer = CpuDealer::of(cpus.clone());
        let pinned = || Cpus::of_this_process().0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                dealer.place_this_thread();
                dealer.place_this_thread();
                assert_eq!(pinned(), [cpus.0[0]]);
                cpus.spread_this_thread();
                assert_eq!(pinned(), cpus.0);
            });
        });
        assert_eq!(dealer.next.load(Ordering::Relaxed), 1);
    }
}
